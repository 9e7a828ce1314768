"""What a training is: the same options on the same data go on with an unfinished one, and leave a finished one alone.

Other options or other data are refused, and named, rather than mixed with what is there. The same command stays the
same with later versions: what it does not say is what it was when the training began, see `begun_with`.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

from jobs.shared.options import Chosen, flag
from songsight.errors import UserError
from songsight.store import urls

# What changes how a training runs, and not what it computes.
FREE = frozenset({"workers", "threads", "out", "checkpoint_every", "max_bad_fraction", "max_failures", "concurrent"})
# What an unfinished training may still decide, for only its end asks for it.
FREE_UNTIL_THE_END = frozenset({"register_as", "promote_if"})
# Options that are gone since 0.1, and their defaults: what was begun with another value cannot go on.
GONE: dict[str, Any] = {}
_RECORD = "training.json"  # in an unfinished training's state, and beside a finished one's model


def begun_with(chosen: Chosen, *folders: str) -> dict[str, Any]:
    """The values with which a training goes on, or is found to be finished, where they are not those of the command.

    Where the user gives an option neither now nor gave it when the training began, it is what it was then, whatever the
    default is now.

    Args:
        chosen: the options of the command.
        folders: where the training may have left its record; the first that holds one counts.

    Returns:
        the values to replace, by option; empty where there is no record.

    Raises:
        UserError: the store of `--out` cannot be asked.
    """
    for folder in folders:
        try:
            before = _read(folder)
        except UserError as error:
            raise UserError(f"--out: {error}") from None
        if before is not None:
            begun, given = _begun(before, chosen.in_0_1)
            now = _plain(chosen.values)
            names = now.keys() & begun.keys() - given - chosen.given - FREE
            return {name: begun[name] for name in names if begun[name] != now[name]}
    return {}


def unfinished(
    state_url: str, chosen: Chosen, fingerprints: dict[str, str], what: str = "unfinished training"
) -> str | None:
    """The MLflow run of the training that was stopped here; None if there is none.

    Args:
        state_url: where a training keeps its state.
        chosen: the options of the command, with the values of `begun_with`.
        fingerprints: of what goes in, by option.
        what: what is there, for the error line.

    Raises:
        UserError: the state is of a training with other options or other data.
    """
    before = _read(state_url)
    if before is None:
        return None
    where = f"the {what} in {urls.parent(state_url)}"
    way_out = f"the same goes on with it; give another --out for a new one, or remove {state_url}"
    _require_same(before, chosen, fingerprints, FREE | FREE_UNTIL_THE_END, where, way_out)
    return before["mlflow_run"]


def begin(state_url: str, chosen: Chosen, fingerprints: dict[str, str], mlflow_run: str) -> None:
    """Notes down what a training is, before its first step."""
    _write(state_url, chosen, fingerprints, {"mlflow_run": mlflow_run})


def finished(out: str, chosen: Chosen, fingerprints: dict[str, str], going_on: bool = False) -> dict[str, Any] | None:
    """What `end` noted beside the model of the same training; None where there is no such note.

    Args:
        out: the model's folder or URL.
        chosen, fingerprints: see `unfinished`.
        going_on: whether this training was stopped there, perhaps with its model stored and nothing noted yet.

    Raises:
        UserError: the model there is of other options, other data or another origin.
    """
    before = _read(out)
    way_out = "give another --out, or remove that folder"
    if before is None:
        if not going_on and urls.exists(urls.join(out, "config.json")):
            raise UserError(f"--out {out}: holds a model, and no {_RECORD} says how it was made; {way_out}")
        return None
    _require_same(before, chosen, fingerprints, FREE, f"the model in {out}", way_out)
    return before


def end(out: str, chosen: Chosen, fingerprints: dict[str, str], made: dict[str, Any]) -> None:
    """Notes down beside a model how it was made, and that nothing is left to do.

    Args:
        out: the model's folder or URL.
        chosen, fingerprints: see `unfinished`.
        made: `mlflow_run`, `version` and `measures`.
    """
    _write(out, chosen, fingerprints, made)


def _require_same(
    before: dict[str, Any],
    chosen: Chosen,
    fingerprints: dict[str, str],
    free: frozenset[str],
    what: str,
    way_out: str,
) -> None:
    (begun, given), now = _begun(before, chosen.in_0_1), _plain(chosen.values)
    for name, value in begun.items():
        if name in now and name not in free and now[name] != value:
            raise UserError(f"{flag(name)} {now[name]}: {what} has {value}; {way_out}")
        if name not in now and name in given:
            raise UserError(f"{flag(name)} {value}, which {what} has, is no option any more; {way_out}")
    # What only one of the two has is of an input that an option names, or was not hashed by every version.
    for name in sorted(before["fingerprints"].keys() & fingerprints.keys()):
        if before["fingerprints"][name] != fingerprints[name]:
            raise UserError(f"{flag(name)}: {what} began with others; {way_out}")


def _begun(before: dict[str, Any], in_0_1: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """By a record: each option's value when the training began, and which of them the user gave."""
    in_0_1 = _plain(in_0_1) | GONE
    found = before["options"]
    given = before.get("given", [name for name in found if name not in in_0_1 or found[name] != in_0_1[name]])
    return in_0_1 | found, set(given)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they come back from a record; several words are one text there."""
    return {name: " ".join(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _read(folder: str) -> dict[str, Any] | None:
    url = urls.join(folder, _RECORD)
    return json.loads(urls.read_bytes(url)) if urls.exists(url) else None


def _write(folder: str, chosen: Chosen, fingerprints: dict[str, str], more: dict[str, Any]) -> None:
    record = {
        "songsight": metadata.version("songsight"),
        "options": _plain(chosen.values),
        "given": sorted(chosen.given),
        "fingerprints": fingerprints,
    }
    urls.write_bytes(urls.join(folder, _RECORD), json.dumps(record | more, indent=2).encode())
