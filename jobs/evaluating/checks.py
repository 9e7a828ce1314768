"""`songsight evaluate --checks`: what a reader of the table asks next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.checks import CHECKS, Subject
from inference.checks.distortions import DistortedClips, Distortion
from inference.match.gallery import Gallery
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import tables

if TYPE_CHECKING:  # PyTorch and MLflow take seconds to import, and wrong options are answered before
    from inference.evaluation.files import Section
    from inference.evaluation.measured import Evaluation
    from jobs.evaluating.retrieval import Embedded

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


def plan(words: Sequence[str], trained_on: str | None, synonyms: str | None, recordings: str) -> Plan:
    """Reads the options of the checks, before anything is embedded.

    Args:
        words: the checks that are asked for, `all` among them for all; a word may be several with commas between.
        trained_on: URL of the table that the model was trained on; None for `recordings`.
        synonyms: URL of a table of other names; None for none.
        recordings: URL of the table that is evaluated.

    Raises:
        UserError: an unknown check, an option of a check that is not asked for, or what a check needs is missing.
    """
    words = [word for part in words for word in part.split(",") if word]
    names = NAMES if "all" in words else tuple(name for name in NAMES if name in words)
    for word in words:
        if word not in (*NAMES, "all"):
            raise UserError(f"--checks: no check {word!r} (checks: {', '.join(NAMES)}, or all)")
    for option, url, check in (("--trained-on", trained_on, "unseen"), ("--synonyms", synonyms, "renamed")):
        if url and check not in names:
            raise UserError(f"{option} is for --checks {check}")
    heard = _heard_in_training(trained_on, recordings) if "unseen" in names else None
    return Plan(names, heard, _synonyms(synonyms) if synonyms else {})


def _heard_in_training(trained_on: str | None, recordings: str) -> frozenset[str]:
    """The species of the rows that a training takes: those whose split is train or, beside others, not given.

    All of a table without splits that was named as the one that was trained on; none of one that is evaluated.
    """
    option, url = ("--trained-on", trained_on) if trained_on else ("--recordings", recordings)
    table = tables.read_table(url, option, ("scientific_name",), tables.RECORDINGS)
    splits = table["split"].to_pylist()
    if trained_on or any(splits):
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
    table = tables.read_table(url, "--synonyms", tables.SYNONYMS.names, tables.SYNONYMS)
    names = zip(table["scientific_name"].to_pylist(), table["synonym"].to_pylist(), strict=True)
    return {name: synonym for name, synonym in names if name and synonym}


def check_synonyms(wanted: Plan, synonyms: str | None, gallery: Gallery, gallery_url: str) -> None:
    """Refuses a table of synonyms none of which is of a species of the gallery.

    Raises:
        UserError: naming the table.
    """
    species = gallery.names["scientific_name"].to_pylist()
    if wanted.synonyms and not wanted.synonyms.keys() & set(species):
        raise UserError(
            f"--synonyms: {synonyms} has no scientific_name of a species of {gallery_url}, such as {species[0]}"
        )


def subject(wanted: Plan, found: Evaluation, embedded: Embedded) -> Subject:
    """What the checks look at: the queries of an evaluation."""
    material, labels, texts = found.material, found.labels, embedded.models.texts
    return Subject(
        species=found.species,
        vectors={kind: some[material.queries] for kind, some in material.vectors.items()},
        names=embedded.given.names,
        name_vectors=material.teacher_names_SD,
        photographs=found.photographs,
        base_text=texts.base_text,
        teacher_text=texts.teacher_text,
        trained_on=wanted.trained_on,
        train_species=labels.train,
        train_pooled=material.vectors["base_pooled"][material.train],
        embed_distorted=EmbedDistorted(embedded),
        synonyms=wanted.synonyms,
        resamples=found.settings.resamples,
        seed=found.settings.seed,
    )


def run(subject: Subject, names: Sequence[str], out: str | None) -> dict[str, Any]:
    """Runs the checks and keeps their tables; returns them by name."""
    from jobs.evaluating import side_tables

    found: dict[str, Any] = {}
    for name in names:
        for table, rows in CHECKS[name](subject).items():
            if not rows:
                opts.note(f"--checks {name}: nothing to look at for {HEADINGS[table]}")
                continue
            found[table] = rows
            side_tables.keep(table, rows, HEADINGS[table], out, log=table not in _NO_METRICS)
    return found


def sections(found: Mapping[str, Any]) -> dict[str, Section]:
    """The tables of `run` for the evaluation's page: what each tells, its rows, its columns and their headings."""
    from jobs.evaluating import side_tables

    return {name: (f"Check: {HEADINGS[name]}", rows, side_tables.columns(rows)) for name, rows in found.items()}


@dataclass(frozen=True)
class EmbedDistorted:
    """Embeds the queries anew after distortions, by the same job as before."""

    embedded: Embedded

    def __call__(self, distortions: tuple[Distortion, ...]) -> Iterator[dict[str, np.ndarray]]:
        """For each, by `embed.KINDS`, float32 [queries, width]; NaN rows for what could not be decoded again."""
        together = max(1, _CLIPS_PER_JOB // len(self.embedded.queries))
        for start in range(0, len(distortions), together):
            yield from self._together(distortions[start : start + together])

    def _together(self, distortions: tuple[Distortion, ...]) -> Iterator[dict[str, np.ndarray]]:
        queries = self.embedded.queries
        distorted = DistortedClips.damage(self.embedded.clips, queries, distortions)
        many = len(queries) * len(distortions)
        rows, vectors = self.embedded.models.embed(distorted, many, "damaged recordings")
        which, query = np.divmod(rows, len(queries))
        for number in range(len(distortions)):
            own = which == number
            whole = {}
            for kind, some in vectors.items():
                whole[kind] = np.full((len(queries), some.shape[1]), np.nan, np.float32)
                whole[kind][query[own]] = some[own]
            yield whole
