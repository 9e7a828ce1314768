"""What makes an annotation the run that it is, and whether `--out` can hold it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from inference.annotate import record
from inference.annotate.ledger import Ledger
from inference.archive.spans import Windows
from jobs.annotating.options import Command
from songsight.errors import UserError
from songsight.store import urls
from songsight.store.retry import persistently

if TYPE_CHECKING:
    from jobs.annotating.inputs import Inputs

DECIDING = (
    *("top_k", "min_score", "score", "bridge", "embeddings", "latitude", "longitude", "min_probability"),
    *("timezone", "site"),
)
"""Options of 0.1 that decide hits by themselves, not by what they name."""
GONE_PRECISIONS = ("int8",)
"""Precisions of the encoder that earlier versions had."""


def run_identity(
    command: Command, windows: Windows, species: tuple[str, ...] | None, fingerprints: dict[str, str]
) -> str:
    """A hash of what decides a recording's hits; how fast they come, and what is made of them, has no part in it.

    The names here are those of 0.1, whose runs go on. An option that decides hits and came since joins them only where
    it has another value than hits were made with before, which its field's metadata has, see `options.in_0_1`.

    Args:
        command: of `songsight annotate`.
        windows: how recordings are cut.
        species: that may be hit; None for all.
        fingerprints: of what goes in.
    """
    asked = command.options
    same = {
        "archive": urls.absolute(asked["archive"]) if asked["archive"] else None,
        "windows": dataclasses.astuple(windows),
        "species": species,
        **{name: asked[name] for name in DECIDING},
        **fingerprints,
    }
    for name, before in command.in_0_1.items():
        if name not in same and asked[name] != before:
            same[name] = asked[name]
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def claim(command: Command, inputs: Inputs) -> Ledger:
    """The state of the run that a command is for.

    Raises:
        UserError: `--out` holds another run.
    """
    prints = inputs.fingerprints | ({"precision": inputs.precision} if inputs.precision else {})
    run_id = run_identity(command, inputs.windows, inputs.species, prints)
    state = Ledger(urls.absolute(command.out), run_id)
    refuse_another(command.out, state)
    return state


def refuse_another(out: str, state: Ledger) -> None:
    """Raises UserError where `out` holds another run, which must not be mixed with this."""

    def there(name: str) -> bool:
        return persistently(lambda: urls.exists(urls.join(out, name)))

    found = record.read(out)
    if found is not None:
        if found.precision in GONE_PRECISIONS:
            raise UserError(
                f"--out {out} was annotated with --precision {found.precision}, which is gone: give a new folder"
            )
        if found.run_id != state.run_id:
            raise UserError(
                f"--out {out} holds run {found.run_id}, of another archive, model or options: give a new folder"
            )
    elif (there("hits") or there(".state")) and not state.began():
        raise UserError(f"--out {out} holds another, unfinished run: give a new folder, or remove it")


def require_new_or_writable(out: str) -> None:
    """Checks, before anything slow, that a run that is yet to be done can be written; a finished one need not be.

    Raises:
        UserError: it cannot.
    """
    if record.read(out) is None:
        urls.require_writable(out, "--out")
