"""`run.json`: what a finished run says of itself. Where it is, all tables beside it are complete."""

from __future__ import annotations

import json
from typing import Any

from songsight.errors import UserError
from songsight.store import urls
from songsight.store.retry import persistently


def url_of(out: str) -> str:
    """Where it lies below a run's results."""
    return urls.join(out, "run.json")


def read(out: str, option: str = "--out") -> dict[str, Any] | None:
    """The record of the finished run in a folder; None where there is none.

    Args:
        out: URL of the results.
        option: that it was given as, for the error line.

    Raises:
        UserError: the `run.json` there is not one that `songsight annotate` wrote.
    """
    found = parse(url_of(out), option)
    if found is not None and not isinstance(found.get("run_id"), str):
        raise UserError(f"{option}: {url_of(out)} is not the run.json of a songsight run (it has no run_id)")
    return found


def finished(out: str, option: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The record of a run that has to be there, and to hold some keys.

    Raises:
        UserError: no finished run is there, or it is none of songsight's.
    """
    found = read(out, option)
    if found is None:
        raise UserError(f"{option} {out}: no finished run is there (no run.json); `songsight annotate` makes one")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{option}: {url_of(out)} is not the run.json of a songsight run (it has no {missing[0]})")
    return found


def parse(url: str, option: str) -> dict[str, Any] | None:
    """A JSON object, however it is named; None where there is no such file.

    Raises:
        UserError: it is something else.
    """
    if not persistently(lambda: urls.exists(url)):
        return None
    data = persistently(lambda: urls.read_bytes(url))
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{option}: {url} cannot be read as JSON: give a new folder, or remove what is there")
    return found
