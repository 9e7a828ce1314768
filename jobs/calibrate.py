"""Fit probabilities to an annotated archive's scores, from what people heard in some of its recordings.

    songsight calibrate --annotated annotated --labels selections/ --out calibration.json
    songsight annotate --calibration calibration.json …

Labels are Raven selection tables (a file or a folder of them), Audacity's, BirdNET's, or a Parquet or CSV table:
recording, start_s, end_s, scientific_name. A labelled recording counts as listened to from end to end; the others are
left out. A low `--min-score` and a high `--top-k` of the annotation give the fit more to learn from.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.annotate import record
from inference.annotate.record import Record
from inference.match import calibration
from jobs.shared import options as opts
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.store import urls

if TYPE_CHECKING:
    import pyarrow as pa

    from inference.truth.labels import Labels


@dataclass(frozen=True)
class Options:
    """Options of `songsight calibrate`."""

    annotated: str
    """what `songsight annotate` wrote: folder or URL"""
    labels: str
    """what people heard: a Parquet or CSV table, a table of Raven, Audacity or BirdNET, or a folder of those"""
    out: str = "calibration.json"
    """the calibration, for `songsight annotate --calibration`; a picture of it is written beside it"""
    label_column: str | None = None
    """column of the labels that names the species; found by its usual names if not given"""
    names: str | None = None
    """CSV table of label and scientific_name, where labels are neither scientific nor common names of the hits"""
    min_overlap_s: float = 0.5
    """seconds of a label that must lie in a window for the species to sing there; all of it where it is shorter"""


@dataclass(frozen=True)
class Hits:
    """Hits in labelled recordings.

    Attributes:
        scores_N: float64 [hits].
        right_N: whether the labels agree, bool [hits].
        names: the species that were hit, sorted.
        species_N: number of each hit's species, int [hits].
        groups_N: number of each hit's recording, int [hits].
    """

    scores_N: np.ndarray
    right_N: np.ndarray
    names: list[str]
    species_N: np.ndarray
    groups_N: np.ndarray

    @property
    def recordings(self) -> int:
        """How many recordings have hits."""
        return len(np.unique(self.groups_N))


def main(options: Options) -> dict[str, Any]:
    """Fits, measures on held-out recordings, and writes the calibration and its picture."""
    opts.require_at_least(0, min_overlap_s=options.min_overlap_s)
    heard = _heard(options.labels, options.label_column)
    told = record.finished(options.annotated, "--annotated", ("scored_with", "options", "fingerprints"))
    labels = _of_archive(heard, options.labels, options.annotated)
    urls.require_writable_file(options.out, "--out")
    hits = _hits(options.annotated, labels, options.labels, options.names, options.min_overlap_s)

    with tracking.run("calibrate", opts.as_dict(options), told.fingerprints):
        import mlflow

        fitted, out_of_fold = _fit(hits, told)
        fitted.write(options.out)
        picture_url = options.out.removesuffix(".json") + ".png"
        urls.write_bytes(picture_url, _picture(np.clip(hits.scores_N, 0, 1), out_of_fold, hits.right_N))
        measured = fitted.measured
        mlflow.log_metrics({name: float(value) for name, value in measured.items()})
        mlflow.log_dict(measured, "measured.json")
    _say(options.out, picture_url, measured)
    return measured


def _heard(url: str, label_column: str | None) -> pa.Table:
    """What people heard, `annotations.ANNOTATIONS`."""
    from inference.truth import annotations

    try:
        heard, unused = annotations.read(url, label_column, with_empty=True)
    except UserError as error:
        raise UserError(f"--labels: {error}") from None
    for reason in unused:
        opts.note(f"--labels: not used: {reason}")
    return heard


def _of_archive(heard: pa.Table, labels_url: str, annotated: str) -> Labels:
    """The labels of the recordings of an annotated archive.

    Raises:
        UserError: there are none.
    """
    from inference.truth import labels

    recordings = _table(annotated, "recordings", ["path"])["path"].to_pylist()
    within, strangers = labels.by_recording(heard, recordings)
    if not within:
        named = len(set(heard["recording"].to_pylist()))
        raise UserError(
            f"--labels: none of the {named} recordings of {labels_url} is one of {annotated}, such as {recordings[0]}"
        )
    if strangers:
        opts.note(f"--labels: not used, for no one recording of {annotated} is meant: {', '.join(strangers)}")
    return within


def _hits(annotated: str, within: Labels, labels_url: str, names_url: str | None, min_overlap_s: float) -> Hits:
    """The hits in labelled recordings, and which of them are right.

    Args:
        annotated: the archive's results.
        within: labels of its recordings.
        labels_url: where they are from, for error lines.
        names_url: `--names`.
        min_overlap_s: seconds of a label that must lie in a window.

    Raises:
        UserError: there are no hits, or none that something can be learnt from.
    """
    from inference.truth import labels

    columns = ["recording", "start_s", "end_s", "scientific_name", "common_name", "score"]
    rows = _table(annotated, "hits", columns, list(within))
    if not len(rows):
        raise UserError(f"--annotated {annotated}: the {len(within)} labelled recordings have no hits")
    recordings, species = rows["recording"].to_pylist(), rows["scientific_name"].to_pylist()
    name_of = _names(names_url, rows)
    said = {label for spans in within.values() for _, _, label in spans}
    unknown = sorted(label for label in said if label.lower() not in name_of)
    if unknown:
        opts.note(f"{len(unknown)} labels are names of no hit, such as {unknown[0]!r}; --names says what they mean")
    starts_s, ends_s = rows["start_s"].to_numpy(), rows["end_s"].to_numpy()
    right = labels.truth(recordings, starts_s, ends_s, species, within, name_of, min_overlap_s)
    if right.all() or not right.any():
        which = "all" if right.all() else "none"
        raise UserError(f"--labels: {which} of the {len(rows)} hits are right by {labels_url}: nothing to fit")
    scores = rows["score"].to_numpy().astype(float)
    names = sorted(set(species))
    hits = Hits(scores, right, names, _numbers(species, names), _numbers(recordings, sorted(within)))
    if hits.recordings < 2:
        raise UserError("--labels: two labelled recordings with hits are needed, one to check the other by")
    return hits


def _numbers(values: Iterable[str], known: list[str]) -> np.ndarray:
    """Each value's place among the known ones, int [values]."""
    number_of = {value: number for number, value in enumerate(known)}
    return np.array([number_of[value] for value in values])


def _fit(hits: Hits, told: Record) -> tuple[calibration.Calibration, np.ndarray]:
    """The calibration, and each hit's probability by one that was fitted without its recording, float64 [hits].

    Args:
        hits: in labelled recordings.
        told: `run.json` of their run.
    """
    scores_N, right_N, count = hits.scores_N, hits.right_N, len(hits.names)
    out_of_fold = calibration.held_out(scores_N, right_N, hits.species_N, hits.groups_N, count)
    spread = calibration.choose_spread(scores_N, right_N, hits.species_N, hits.groups_N, count)
    pooled, lines = calibration.fit(scores_N, right_N, hits.species_N, count, spread)
    before = np.clip(scores_N, 0, 1)
    measured: dict[str, Any] = {
        "recordings": hits.recordings,
        "hits": len(scores_N),
        "right": int(right_N.sum()),
        "spread": spread,
        "brier_score_as_probability": calibration.brier(before, right_N),
        "brier": calibration.brier(out_of_fold, right_N),
        "brier_of_the_mean": calibration.brier(np.full(len(right_N), right_N.mean()), right_N),
        "calibration_error_score_as_probability": calibration.calibration_error(before, right_N),
        "calibration_error": calibration.calibration_error(out_of_fold, right_N),
    }
    fitted = calibration.Calibration(
        made_with=told.scored_with,
        pooled=(float(pooled[0]), float(pooled[1])),
        species={name: (float(a), float(b)) for name, (a, b) in zip(hits.names, lines, strict=True)},
        top_k=told.options["top_k"],
        measured=measured,
    )
    return fitted, out_of_fold


def _table(url: str, name: str, columns: list[str], recordings: list[str] | None = None) -> pa.Table:
    """Columns of one of a run's tables; of some recordings alone where they are given."""
    import pyarrow.dataset as ds

    filesystem, root = urls.arrow_filesystem(urls.join(url, name))
    rows = ds.field("recording").isin(recordings) if recordings is not None else None
    return ds.dataset(root, filesystem=filesystem, format="parquet").to_table(columns, filter=rows)


def _names(url: str | None, hits: pa.Table) -> dict[str, str]:
    """Labels in lower case to scientific names: those, common names, and what `--names` adds."""
    from songsight.store import tables

    columns = [hits[name].to_pylist() for name in ("scientific_name", "common_name")]
    of = {common.lower(): name for name, common in set(zip(*columns, strict=True)) if common}
    of |= {name.lower(): name for name in set(columns[0])}
    if url:
        rows = tables.read_table(url, "--names", tables.LABELS.names, tables.LABELS).to_pylist()
        of |= {row["label"].lower(): row["scientific_name"] for row in rows if row["label"] and row["scientific_name"]}
    return of


def _picture(before_N: np.ndarray, after_N: np.ndarray, right_N: np.ndarray) -> bytes:
    """The reliability diagram, PNG: how often hits of a probability are right, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curve, counts) = pyplot.subplots(
        2, 1, figsize=(6, 7), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    curve.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="as often as said")
    edges = [(bin_number + 0.5) / calibration.BINS for bin_number in range(calibration.BINS)]
    for side, (name, p_N, colour) in enumerate(
        (("score taken as a probability", before_N, "#b3632d"), ("calibrated, held out", after_N, "#2d6e4f"))
    ):
        mean_B, share_B, hits_B = calibration.reliability(p_N, right_N)
        error = calibration.calibration_error(p_N, right_N)
        curve.plot(mean_B, share_B, "o-", color=colour, label=f"{name}: calibration error {error:.3f}")
        width = 0.4 / calibration.BINS
        counts.bar([edge + (side - 0.5) * width for edge in edges], hits_B, width, color=colour)
    curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of hits that are right")
    curve.legend(frameon=False)
    counts.set(xlabel="probability", ylabel="hits", yscale="log")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    pyplot.close(figure)
    return sink.getvalue()


def _say(out: str, picture_url: str, measured: dict[str, Any]) -> None:
    print(f"{measured['hits']} hits in {measured['recordings']} labelled recordings, {measured['right']} of them right")
    print()
    print("| held-out recordings | Brier score | calibration error |")
    print("|---|---|---|")
    print(
        f"| score taken as a probability | {measured['brier_score_as_probability']:.4f} | "
        f"{measured['calibration_error_score_as_probability']:.4f} |"
    )
    print(f"| the share that is right, for all | {measured['brier_of_the_mean']:.4f} | |")
    print(f"| calibrated | {measured['brier']:.4f} | {measured['calibration_error']:.4f} |")
    print()
    print(f"calibration: {out}; picture: {picture_url}")


if __name__ == "__main__":
    from jobs.cli import command

    command("calibrate")
