"""Which version of the registered model is the champion: `--promote-if "audio_to_image_mAP>champion"`.

Every new version takes the alias `candidate`, and its held-out measures as tags. One that passes the rule takes the
alias `champion` too. Measures are comparable while the held-out recordings and the gallery stay the same.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from songsight.errors import UserError

CANDIDATE = "candidate"
CHAMPION = "champion"
METRICS = ("val_audio_to_image_mAP", "val_text_mAP", "val_naming_top1")
_FORM = re.compile(r"^\s*(\w+)\s*(>=|>)\s*([\w.+-]+)\s*$")


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


@dataclass(frozen=True)
class Rule:
    """When a new version becomes the champion.

    Attributes:
        metric: a name in `METRICS`; larger is better.
        or_equal: whether it is enough to be as good.
        rival: an alias whose version is to be beaten, or a number.
    """

    metric: str
    or_equal: bool
    rival: str | float

    @classmethod
    def parse(cls, text: str, option: str = "--promote-if") -> Rule:
        """Reads `audio_to_image_mAP>champion`, `val_text_mAP>=0.4` and the like.

        Raises:
            UserError: another form, or a measure that distill does not take.
        """
        found = _FORM.match(text)
        if not found:
            raise UserError(
                f"{option} {text}: should be a measure, > or >=, and an alias or a number, such as "
                '"audio_to_image_mAP>champion"'
            )
        try:
            rival: str | float = float(found[3])
        except ValueError:
            rival = found[3]
        if isinstance(rival, float) and not math.isfinite(rival):
            raise UserError(f"{option} {text}: should compare with a finite number")
        return cls(metric_name(found[1], f"{option} {text}"), found[2] == ">=", rival)

    def passes(self, value: float, rival: float | None) -> bool:
        """Whether a version with a measure becomes champion; `rival` None is for no version to beat. NaN never wins."""
        if math.isnan(value):
            return False
        return rival is None or (value >= rival if self.or_equal else value > rival)

    def rival_value(self, name: str) -> float | None:
        """The number to beat; None where no version of the registered model `name` has the rival's alias.

        Raises:
            UserError: the version with that alias has no such measure to compare with.
        """
        if isinstance(self.rival, float):
            return self.rival
        version = _with_alias(name, self.rival)
        if version is None:
            return None
        if self.metric not in version.tags:
            raise UserError(
                f"--promote-if: version {version.version} of {name}, the {self.rival}, has no {self.metric} to "
                "compare with"
            )
        return float(version.tags[self.metric])


def describe(name: str, version: str, measures: dict[str, float]) -> None:
    """Gives a new version its held-out measures as tags."""
    client = _client()
    for metric, value in measures.items():
        client.set_model_version_tag(name, version, metric, repr(float(value)))


def enter(name: str, version: str, measures: dict[str, float], rule: Rule | None) -> str:
    """Gives a new version its aliases; returns what became of it, in words.

    Args:
        name: of the registered model.
        version: the new one's number.
        measures: its held-out measures.
        rule: when it becomes champion; None for never.

    Raises:
        UserError: see `Rule.rival_value`.
    """
    client = _client()
    # Read before the candidate's alias moves: it may be the rival.
    won, why = False, ""
    if rule:
        rival = rule.rival_value(name)
        value = measures.get(rule.metric, math.nan)
        won = rule.passes(value, rival)
        against = f"{rule.rival}, of which there is none" if rival is None else f"{rival:.4f} of {rule.rival}"
        against = f"{rule.rival:g}" if isinstance(rule.rival, float) else against
        why = f" ({rule.metric} {value:.4f} against {against})"
    client.set_registered_model_alias(name, CANDIDATE, version)
    if won:
        client.set_registered_model_alias(name, CHAMPION, version)
    return f"{CANDIDATE} and {CHAMPION}{why}" if won else f"{CANDIDATE}{', not ' + CHAMPION + why if rule else ''}"


def _client() -> Any:
    from mlflow import MlflowClient

    from songsight.store import registry

    return MlflowClient(tracking_uri=registry.store(), registry_uri=registry.store())


def _with_alias(name: str, alias: str) -> Any:
    """The version with an alias, or None."""
    client = _client()
    if not client.search_model_versions(f"name='{name}'"):
        return None
    number = client.get_registered_model(name).aliases.get(alias)
    return client.get_model_version(name, str(number)) if number is not None else None
