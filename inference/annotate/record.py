"""`run.json`: what a finished run says of itself. Where it is, all tables beside it are complete."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from songsight.errors import UserError
from songsight.store import urls
from songsight.store.retry import persistently

_ONLY_WHERE_MADE = ("from_embeddings", "source_round", "detections")


@dataclass(frozen=True)
class Record:
    """The keys of `run.json`, in their order.

    Files of any version are read: a key that a file lacks has the default given here, which is to be what versions
    without the key did, and keys that only a later version knows are kept.

    Attributes:
        run_id: a hash of what decides the hits, see `jobs.annotating.identity`.
        round: 1 for a first run, one more each time that recordings were added.
        mlflow_run: id of the MLflow run.
        from_embeddings: of a run that was matched again: URL of the run that kept the vectors.
        source_round: `round` of that run.
        archive, gallery: URLs.
        files_found: recordings in the archive, each either annotated or quarantined.
        annotated, quarantined: how many of them.
        partial: annotated ones of which some could not be read.
        skipped: files that are no recordings.
        gone: recordings that have rows and are no longer in the archive.
        to_retry: recordings that the next run of the same command tries again.
        hours: of sound in the annotated recordings.
        windows, hits: of all rounds.
        elapsed_s: seconds that the last round took, from when Ray was there.
        audio_hours_per_hour, windows_per_s: its rates.
        first_window_s, steady_windows_per_s, steady_between: see `throughput.summary`.
        begun_at: when the command was given, seconds since 1970.
        precision: of the encoder: fp32 or bf16; int8 in runs of 0.1 alone. None where no encoder was at work.
        window_s, hop_s: length of a window, and from one window's start to the next one's.
        encoder: `model`, `method`, `width`, `teacher_fingerprint` and `temperature` of the model.
        scored_with: what decides a score; scores of runs that differ in it mean different things.
        embeddings: how the windows' vectors are kept: none, float16 or binary.
        codes: with binary vectors, what `codes.Kept.shares` says of them.
        fingerprints: hashes of what went in.
        versions: of Python and of the packages that decide a result.
        options: of the command.
        stamp: see `rerun.stamp`.
        detections: rows of the table of detections, where there is one.
        more: what a later version has added.
    """

    run_id: str
    round: int = 1
    mlflow_run: str = ""
    from_embeddings: str | None = None
    source_round: int | None = None
    archive: str = ""
    gallery: str = ""
    files_found: int = 0
    annotated: int = 0
    quarantined: int = 0
    partial: int = 0
    skipped: int = 0
    gone: int = 0
    to_retry: int = 0
    hours: float = 0.0
    windows: int = 0
    hits: int = 0
    elapsed_s: float = 0.0
    audio_hours_per_hour: float = 0.0
    windows_per_s: float = 0.0
    first_window_s: float | None = None
    steady_windows_per_s: float | None = None
    steady_between: Sequence[float] | None = None
    begun_at: float = 0.0
    precision: str | None = None
    window_s: float = 0.0
    hop_s: float = 0.0
    encoder: dict[str, Any] = field(default_factory=dict)
    scored_with: dict[str, Any] = field(default_factory=dict)
    embeddings: str = "none"
    codes: dict[str, Any] | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    detections: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as `run.json` has it."""
        told = dataclasses.asdict(self)
        more = told.pop("more")
        return {key: told[key] for key in told if told[key] is not None or key not in _ONLY_WHERE_MADE} | more

    def as_bytes(self) -> bytes:
        """The text of `run.json`."""
        return json.dumps(self.as_dict(), indent=2).encode()


_KEYS = {key.name for key in dataclasses.fields(Record)} - {"more"}


def url_of(out: str) -> str:
    """Where it lies below a run's results."""
    return urls.join(out, "run.json")


def read(out: str, option: str = "--out") -> Record | None:
    """The record of the finished run in a folder; None where there is none.

    Args:
        out: URL of the results.
        option: that it was given as, for the error line.

    Raises:
        UserError: the `run.json` there is not one that `songsight annotate` wrote.
    """
    return read_file(url_of(out), option)


def finished(out: str, option: str, keys: tuple[str, ...]) -> Record:
    """The record of a run that has to be there, and to hold some keys.

    Raises:
        UserError: no finished run is there, or it is none of songsight's.
    """
    found = _parse(url_of(out), option)
    if found is None:
        raise UserError(f"{option} {out}: no finished run is there (no run.json); `songsight annotate` makes one")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{option}: {url_of(out)} is not the run.json of a songsight run (it has no {missing[0]})")
    return _record(found)


def read_file(url: str, option: str) -> Record | None:
    """The record in a file, whatever the file's name; None where there is no such file.

    Raises:
        UserError: it is something else.
    """
    found = _parse(url, option)
    return None if found is None else _record(found)


def _record(found: dict[str, Any]) -> Record:
    known = {key: value for key, value in found.items() if key in _KEYS}
    return Record(**known, more={key: value for key, value in found.items() if key not in _KEYS})


def _parse(url: str, option: str) -> dict[str, Any] | None:
    if not persistently(lambda: urls.exists(url)):
        return None
    data = persistently(lambda: urls.read_bytes(url))
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{option}: {url} cannot be read as JSON: give a new folder, or remove what is there")
    if not isinstance(found.get("run_id"), str):
        raise UserError(f"{option}: {url} is not the run.json of a songsight run (it has no run_id)")
    return found
