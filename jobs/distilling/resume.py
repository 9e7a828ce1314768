"""What a training is: the same options on the same data go on with an unfinished one, and leave a finished one alone.

Other options or other data are refused, and named, rather than mixed with what is there.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import urls

# What changes how a training runs, and not what it computes.
FREE = frozenset({"workers", "threads", "out", "checkpoint_every", "max_bad_fraction", "max_failures", "concurrent"})
# What an unfinished training may still decide, for only its end asks for it.
FREE_UNTIL_THE_END = frozenset({"register_as", "promote_if"})
_UNFINISHED = "training.json"
_FINISHED = "training.json"  # beside the model


def unfinished(
    state_url: str, options: dict[str, Any], fingerprints: dict[str, str], what: str = "unfinished training"
) -> str | None:
    """The MLflow run of the training that was stopped here; None if there is none.

    Args:
        state_url: where a training keeps its state.
        options: of the job, as `options.as_dict` gives them.
        fingerprints: of what goes in, by option.
        what: what is there, for the error line.

    Raises:
        UserError: the state is of a training with other options or other data.
    """
    before = _read(urls.join(state_url, _UNFINISHED))
    if before is None:
        return None
    where = f"the {what} in {urls.parent(state_url)}"
    way_out = f"the same goes on with it; give another --out for a new one, or remove {state_url}"
    _require_same(before, options, fingerprints, FREE | FREE_UNTIL_THE_END, where, way_out)
    return before["mlflow_run"]


def begin(state_url: str, options: dict[str, Any], fingerprints: dict[str, str], mlflow_run: str) -> None:
    """Notes down what a training is, before its first step."""
    _write(urls.join(state_url, _UNFINISHED), options, fingerprints, {"mlflow_run": mlflow_run})


def finished(
    out: str, options: dict[str, Any], fingerprints: dict[str, str], going_on: bool = False
) -> dict[str, Any] | None:
    """What `end` noted beside the model of the same training; None where there is no such note.

    Args:
        out: the model's folder or URL.
        options, fingerprints: see `unfinished`.
        going_on: whether this training was stopped there, perhaps with its model stored and nothing noted yet.

    Raises:
        UserError: the model there is of other options, other data or another origin.
    """
    before = _read(urls.join(out, _FINISHED))
    way_out = "give another --out, or remove that folder"
    if before is None:
        if not going_on and urls.exists(urls.join(out, "config.json")):
            raise UserError(f"--out {out}: holds a model, and no {_FINISHED} says how it was made; {way_out}")
        return None
    _require_same(before, options, fingerprints, FREE, f"the model in {out}", way_out)
    return before


def end(out: str, options: dict[str, Any], fingerprints: dict[str, str], made: dict[str, Any]) -> None:
    """Notes down beside a model how it was made, and that nothing is left to do.

    Args:
        out: the model's folder or URL.
        options, fingerprints: see `unfinished`.
        made: `mlflow_run`, `version` and `measures`.
    """
    _write(urls.join(out, _FINISHED), options, fingerprints, made)


def _require_same(
    before: dict[str, Any],
    options: dict[str, Any],
    fingerprints: dict[str, str],
    free: frozenset[str],
    what: str,
    way_out: str,
) -> None:
    for name, value in options.items():
        if name not in free and before["options"].get(name) != value:
            raise UserError(f"{opts.flag(name)} {value}: {what} has {before['options'].get(name)}; {way_out}")
    for name in {**before["fingerprints"], **fingerprints}:
        if before["fingerprints"].get(name) != fingerprints.get(name):
            raise UserError(f"{opts.flag(name)}: {what} began with others; {way_out}")


def _read(url: str) -> dict[str, Any] | None:
    return json.loads(urls.read_bytes(url)) if urls.exists(url) else None


def _write(url: str, options: dict[str, Any], fingerprints: dict[str, str], more: dict[str, Any]) -> None:
    record = {"options": options, "fingerprints": fingerprints} | more
    urls.write_bytes(url, json.dumps(record, indent=2).encode())
