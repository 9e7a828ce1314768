"""What makes an annotation the run that it is, and whether `--out` can hold it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from songsight.errors import UserError
from songsight.store import urls

if TYPE_CHECKING:
    from inference.annotate.ledger import Ledger


def run_identity(options: Any, windows: Any, species: tuple[str, ...] | None, fingerprints: dict[str, str]) -> str:
    """A hash of what decides a recording's hits; how fast they come, and what is made of them, has no part in it.

    The names here are those of 0.1, whose runs go on. An option that decides hits and came since joins them only where
    it has another value than hits were made with before: its field's metadata has that, see `options.in_0_1`.

    Args:
        options: of `songsight annotate`.
        windows: how recordings are cut.
        species: that may be hit; None for all.
        fingerprints: of what goes in.
    """
    same = {
        "archive": urls.absolute(options.archive) if options.archive else None,
        "windows": dataclasses.astuple(windows),
        "top_k": options.top_k,
        "min_score": options.min_score,
        "score": options.score,
        "bridge": options.bridge,
        "embeddings": options.embeddings,
        "latitude": options.latitude,
        "longitude": options.longitude,
        "min_probability": options.min_probability,
        "species": species,
        "timezone": options.timezone,
        "site": options.site,
        **fingerprints,
    }
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in same and value != field.metadata.get("in_0_1", value):
            same[field.name] = value
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def refuse_another(out: str, state: Ledger) -> None:
    """Raises UserError where `out` holds another run, which must not be mixed with this."""
    from inference.annotate import record
    from songsight.store.retry import persistently

    def there(name: str) -> bool:
        return persistently(lambda: urls.exists(urls.join(out, name)))

    found = record.read(out)
    if found is not None:
        if found["run_id"] != state.run_id:
            raise UserError(
                f"--out {out} holds run {found['run_id']}, of another archive, model or options: give a new folder"
            )
    elif (there("hits") or there(".state")) and not state.began():
        raise UserError(f"--out {out} holds another, unfinished run: give a new folder, or remove it")


def require_new_or_writable(out: str) -> None:
    """Checks, before anything slow, that a run that is yet to be done can be written; a finished one need not be.

    Raises:
        UserError: it cannot.
    """
    from inference.annotate import record

    if record.read(out) is None:
        urls.require_writable(out, "--out")
