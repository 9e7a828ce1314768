"""Which version of the registered model is the champion: `--promote-if "audio_to_image_mAP>champion"`.

Every new version takes the alias `candidate`, and its held-out measures as tags. One that passes the rule takes the
alias `champion` too. Measures are comparable while the held-out recordings and the gallery stay the same.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any, NamedTuple

from songsight.errors import UserError

METRICS = ("val_audio_to_image_mAP", "val_text_mAP", "val_naming_top1")


def metric_name(name: str, option: str) -> str:
    """A held-out measure's full name, given with or without its `val_`.

    Raises:
        UserError: distill measures no such thing.
    """
    full = name if name.startswith("val_") else f"val_{name}"
    if full not in METRICS:
        raise UserError(f"{option}: no measure {name!r} (measures: {', '.join(METRICS)})")
    return full


def require_measured(metric: str, option: str, gallery: str | None, held_out: bool) -> None:
    """Checks before any training that a measure will be there behind it.

    Raises:
        UserError: it needs a gallery or held-out recordings that are not given.
    """
    if metric == "val_audio_to_image_mAP" and not gallery:
        raise UserError(f"{option}: {metric} is measured only with a --gallery")
    if not held_out:
        raise UserError(f"{option}: {metric} is measured on rows whose split is val, and --recordings has none")


class Rule(NamedTuple):
    """A new version becomes the champion when its `metric` is above `rival`, or with `or_equal` as much.

    That is a number, or the alias of the version whose measure is to be beaten.
    """

    metric: str
    or_equal: bool
    rival: str | float

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Reads `audio_to_image_mAP>champion`, `val_text_mAP>=0.4` and the like.

        Raises:
            UserError: another form, or a measure that distill does not take.
        """
        found = re.fullmatch(r"\s*(\w+)\s*(>=?)\s*([\w.+-]+)\s*", text)
        if not found:
            raise UserError(
                f"--promote-if {text}: should be a measure, > or >=, and an alias or a number, such as "
                '"audio_to_image_mAP>champion"'
            )
        rival: str | float = found[3]
        with contextlib.suppress(ValueError):
            rival = float(rival)
        if isinstance(rival, float) and not math.isfinite(rival):
            raise UserError(f"--promote-if {text}: should compare with a finite number")
        return cls(metric_name(found[1], f"--promote-if {text}"), found[2] == ">=", rival)

    def rival_value(self, name: str) -> float:
        """The number to beat: -inf where no version of the registered model `name` has the rival's alias.

        Raises:
            UserError: the version with that alias has no such measure to compare with.
        """
        if isinstance(self.rival, float):
            return self.rival
        models = _client().search_registered_models(f"name = '{name}'")
        if not models or self.rival not in models[0].aliases:
            return -math.inf
        number = str(models[0].aliases[self.rival])
        tags = _client().get_model_version(name, number).tags
        if self.metric not in tags:
            raise UserError(
                f"--promote-if: version {number} of {name}, the {self.rival}, has no {self.metric} to compare with"
            )
        return float(tags[self.metric])


def read_rule(promote_if: str | None, gallery: str | None, held_out: bool) -> Rule | None:
    """Reads `--promote-if`, if it is given, and checks that what it compares will be measured.

    Raises:
        UserError: see `Rule.parse` and `require_measured`.
    """
    if not promote_if:
        return None
    rule = Rule.parse(promote_if)
    require_measured(rule.metric, "--promote-if", gallery, held_out)
    return rule


def set_tags(name: str, version: str, measures: dict[str, float]) -> None:
    """Gives a new version its held-out measures as tags."""
    for metric, value in measures.items():
        _client().set_model_version_tag(name, version, metric, repr(float(value)))


def set_aliases(name: str, version: str, measures: dict[str, float], rule: Rule | None) -> str:
    """Gives a new version of the registered model `name` its aliases; returns what became of it, in words.

    Raises:
        UserError: see `Rule.rival_value`.
    """
    rival = rule.rival_value(name) if rule else 0.0  # before the candidate's alias moves: it may be the rival
    _client().set_registered_model_alias(name, "candidate", version)
    if not rule:
        return "candidate"
    value = measures.get(rule.metric, math.nan)  # which is above nothing
    won = value > rival or (rule.or_equal and value == rival)
    if won:
        _client().set_registered_model_alias(name, "champion", version)
    against = f"{rival:.4f} of {rule.rival}" if rival > -math.inf else f"{rule.rival}, of which there is none"
    against = against if isinstance(rule.rival, str) else f"{rival:g}"
    return f"candidate{' and' if won else ', not'} champion ({rule.metric} {value:.4f} against {against})"


def _client() -> Any:
    from mlflow import MlflowClient

    from songsight.store import registry

    return MlflowClient(tracking_uri=registry.store(), registry_uri=registry.store())
