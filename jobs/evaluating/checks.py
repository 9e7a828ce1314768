"""`songsight evaluate --checks`: what a reader of the table asks next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from inference.checks import Subject
    from inference.checks.distortions import Distortion
    from jobs.evaluate import Options
    from songsight.audio.clips import Clips
    from songsight.models.student import Base

NAMES = ("text-types", "confusable", "unseen", "robustness", "renamed")
HEADINGS = {
    "text_types": "text types: naming sounds, and what each text finds",
    "confusable": "species that are taken for each other: right among those alone",
    "confusable_pairs": "the pairs that the student tells apart worst (two answers each, chance 0.5)",
    "unseen": "species heard in training and never heard, by rank",
    "robustness": "the same recordings, damaged",
    "renamed": "species under other names",
}
_CLIPS_PER_JOB = 20000  # whose vectors are held at a time: 230 MB of BioLingual's
_NO_METRICS = ("confusable_pairs",)  # a species pair is no name for a curve


@dataclass(frozen=True)
class Plan:
    """Which checks, and what they need that the evaluation does not.

    Attributes:
        names: of the checks, in their own order.
        trained_on: species heard in training.
        synonyms: other names of species.
    """

    names: tuple[str, ...] = ()
    trained_on: frozenset[str] | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)


def plan(options: Options) -> Plan:
    """Reads the options of the checks, before anything is embedded.

    Raises:
        UserError: an unknown check, an option of a check that is not asked for, or what a check needs is missing.
    """
    words = [word for part in options.checks for word in part.split(",") if word]
    wanted = NAMES if "all" in words else tuple(name for name in NAMES if name in words)
    for word in words:
        if word not in (*NAMES, "all"):
            raise UserError(f"--checks: no check {word!r} (checks: {', '.join(NAMES)}, or all)")
    for name, check in (("trained_on", "unseen"), ("synonyms", "renamed")):
        if getattr(options, name) and check not in wanted:
            raise UserError(f"{opts.flag(name)} is for --checks {check}")
    trained_on = _trained_on(options) if "unseen" in wanted else None
    return Plan(wanted, trained_on, _synonyms(options.synonyms) if options.synonyms else {})


def _trained_on(options: Options) -> frozenset[str]:
    """The species of the rows that a training takes: those whose split is train or, beside others, not given.

    All of a table without splits that was named as the one that was trained on; none of one that is evaluated.
    """
    from songsight.store import tables

    option, url = ("--trained-on", options.trained_on) if options.trained_on else ("--recordings", options.recordings)
    table = tables.read_table(str(url), option, ("scientific_name",), tables.RECORDINGS)
    splits = table["split"].to_pylist()
    if options.trained_on or any(splits):
        splits = [split or "train" for split in splits]
    names = zip(splits, table["scientific_name"].to_pylist(), strict=True)
    heard = frozenset(name for split, name in names if split == "train" and name)
    if not heard:
        raise UserError(
            f"--checks unseen: {url} has no rows whose split is train; --trained-on names the table that the model "
            "was trained on"
        )
    return heard


def _synonyms(url: str) -> dict[str, str]:
    from songsight.store import tables

    table = tables.read_table(url, "--synonyms", ("scientific_name", "synonym"))
    names = zip(table["scientific_name"].to_pylist(), table["synonym"].to_pylist(), strict=True)
    return {name: synonym for name, synonym in names if name and synonym}


def check_synonyms(wanted: Plan, species: list[str], options: Options) -> None:
    """Refuses synonyms of other species than the gallery's.

    Raises:
        UserError: none of them is of a species of the gallery.
    """
    if wanted.synonyms and not wanted.synonyms.keys() & set(species):
        raise UserError(
            f"--synonyms: {options.synonyms} has no scientific_name of a species of {options.gallery}, such as "
            f"{species[0]}"
        )


def sections(found: dict[str, Any]) -> dict[str, tuple[str, list[dict[str, Any]], dict[str, str]]]:
    """The tables of `run` for the evaluation's page: what each tells, its rows, its columns and their headings."""
    from jobs.evaluating import side_tables

    return {name: (f"Check: {HEADINGS[name]}", rows, side_tables.columns(rows)) for name, rows in found.items()}


def run(subject: Subject, wanted: Plan, out: str | None) -> dict[str, Any]:
    """Runs the checks and keeps their tables; returns them by name."""
    from inference.checks import CHECKS
    from jobs.evaluating import side_tables

    found: dict[str, Any] = {}
    for name in wanted.names:
        for table, rows in CHECKS[name](subject).items():
            if not rows:
                opts.note(f"--checks {name}: nothing to look at for {HEADINGS[table]}")
                continue
            found[table] = rows
            side_tables.keep(table, rows, HEADINGS[table], out, log=table not in _NO_METRICS)
    return found


@dataclass(frozen=True)
class Again:
    """Embeds the queries after distortions, by the same job as before.

    Attributes:
        clips: of the evaluation.
        asked: the queries' rows in it, int64 [queries].
        model_at, base: of `embed.embed_recordings`.
        actors, gpus_each: of it, too.
    """

    clips: Clips
    asked: np.ndarray
    model_at: str
    base: Base
    actors: int
    gpus_each: float

    def __call__(self, distortions: tuple[Distortion, ...]) -> Iterator[dict[str, np.ndarray]]:
        """For each, by `embed.KINDS`, float32 [queries, width]; NaN rows for what could not be decoded again."""
        together = max(1, _CLIPS_PER_JOB // len(self.asked))
        for start in range(0, len(distortions), together):
            yield from self._some(distortions[start : start + together])

    def _some(self, distortions: tuple[Distortion, ...]) -> Iterator[dict[str, np.ndarray]]:
        import numpy as np

        from inference.checks.distortions import DistortedClips
        from inference.evaluation import embed
        from jobs.shared import progress

        damaged = DistortedClips.damage(self.clips, self.asked, distortions)
        many = len(self.asked) * len(distortions)
        bar = progress.Progress("damaged recordings", many)
        rows, vectors = embed.embed_recordings(
            damaged, many, self.model_at, self.base, self.actors, self.gpus_each, bar.update
        )
        bar.close()
        which, query = np.divmod(rows, len(self.asked))
        for number in range(len(distortions)):
            own = which == number
            whole = {}
            for kind, some in vectors.items():
                whole[kind] = np.full((len(self.asked), some.shape[1]), np.nan, np.float32)
                whole[kind][query[own]] = some[own]
            yield whole


def rows_of(names: list[dict[str, Any]], recordings: pa.Table) -> list[dict[str, Any]]:
    """The gallery's species, with the ranks and common names that they lack as the recordings know them."""
    known: dict[str, dict[str, Any]] = {}
    for row in recordings.to_pylist():
        own = known.setdefault(row["scientific_name"], {})
        for key, value in row.items():
            if value:
                own.setdefault(key, value)
    return [
        {key: value or known.get(row["scientific_name"], {}).get(key) for key, value in row.items()} for row in names
    ]
