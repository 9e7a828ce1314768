"""The options of `songsight annotate` in the parts that its steps need; `jobs.annotate` says what each one means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.match.embeddings import Kind
    from inference.match.matching import Score


@dataclass(frozen=True)
class Command:
    """A command as it was given.

    Attributes:
        out: where its results go.
        dry_run: whether it only says what it would do.
        options: all of them by name, as MLflow and `run.json` keep them.
        in_0_1: of options that came since version 0.1, what was done before there was the option.
        begun_at: when it was given, seconds since 1970.
    """

    out: str
    dry_run: bool
    options: dict[str, Any]
    in_0_1: dict[str, Any]
    begun_at: float


@dataclass(frozen=True)
class Recordings:
    """Which recordings are annotated, how they are cut, and what hears them."""

    archive: str
    model: str
    window_s: float | None
    hop_s: float | None
    timezone: str | None
    site: str | None
    embeddings: Kind
    batch_size: int
    precision: str
    channel: str


@dataclass(frozen=True)
class Matching:
    """What windows are matched with, and what is a hit."""

    gallery: str
    species_list: str | None
    top_k: int
    min_score: float
    score: Score
    bridge: float
    calibration: str | None
    min_probability: float | None
    range: str | None
    latitude: float | None
    longitude: float | None


@dataclass(frozen=True)
class Workers:
    """Actors side by side: the fewest and the most, and the GPUs of each; None for what the cluster holds."""

    actors: tuple[int, int] | None
    gpus: float | None
