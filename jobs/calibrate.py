"""Fit probabilities to an annotated archive's scores, from what people heard in some of its recordings.

    songsight calibrate --annotated annotated --labels selections/ --out calibration.json
    songsight annotate --calibration calibration.json …

Labels are Raven selection tables (a file or a folder of them), Audacity's, BirdNET's, or a Parquet or CSV table:
recording, start_s, end_s, scientific_name. A labelled recording counts as listened to from end to end; the others are
left out. A low `--min-score` and a high `--top-k` of the annotation give the fit more to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import numpy as np


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


def main(options: Options) -> dict[str, Any]:
    """Fits, measures on held-out recordings, and writes the calibration and its picture."""
    opts.require_at_least(0, min_overlap_s=options.min_overlap_s)
    import numpy as np

    from inference.annotate import record
    from inference.match import calibration
    from inference.truth import annotations, labels
    from jobs.shared import tracking
    from songsight.store import urls

    try:
        heard = annotations.read(options.labels, options.label_column, with_empty=True)
    except UserError as error:
        raise UserError(f"--labels: {error}") from None
    told = record.finished(options.annotated, "--annotated", ("scored_with", "options", "fingerprints"))
    recordings = _table(options.annotated, "recordings", ["path"])["path"].to_pylist()
    within = labels.by_recording(heard, recordings)
    if not within:
        named = len(set(heard["recording"].to_pylist()))
        raise UserError(
            f"--labels: none of the {named} recordings of {options.labels} is one of {options.annotated}, such as "
            f"{recordings[0]}"
        )
    urls.require_writable_file(options.out, "--out")
    columns = ["recording", "start_s", "end_s", "scientific_name", "common_name", "score"]
    hits = _table(options.annotated, "hits", columns, list(within))
    if not len(hits):
        raise UserError(f"--annotated {options.annotated}: the {len(within)} labelled recordings have no hits")
    species = hits["scientific_name"].to_pylist()
    name_of = _names(options.names, hits)
    said = {label for rows in within.values() for _, _, label in rows}
    unknown = sorted(label for label in said if label.lower() not in name_of)
    if unknown:
        opts.note(f"{len(unknown)} labels are names of no hit, such as {unknown[0]!r}; --names says what they mean")
    right = labels.truth(
        hits["recording"].to_pylist(),
        hits["start_s"].to_numpy(),
        hits["end_s"].to_numpy(),
        species,
        within,
        name_of,
        options.min_overlap_s,
    )
    if right.all() or not right.any():
        which = "all" if right.all() else "none"
        raise UserError(f"--labels: {which} of the {len(hits)} hits are right by {options.labels}: nothing to fit")
    found = sorted(set(species))
    number_of = {name: number for number, name in enumerate(found)}
    species_N = np.array([number_of[name] for name in species])
    groups = {path: number for number, path in enumerate(sorted(within))}
    groups_N = np.array([groups[path] for path in hits["recording"].to_pylist()])
    if len(np.unique(groups_N)) < 2:
        raise UserError("--labels: two labelled recordings with hits are needed, one to check the other by")
    scores_N = hits["score"].to_numpy().astype(float)

    with tracking.run("calibrate", opts.as_dict(options), told["fingerprints"]):
        import mlflow

        out_of_fold = calibration.held_out(scores_N, right, species_N, groups_N, len(found))
        spread = calibration.choose_spread(scores_N, right, species_N, groups_N, len(found))
        pooled, lines = calibration.fit(scores_N, right, species_N, len(found), spread)
        before = np.clip(scores_N, 0, 1)
        measured: dict[str, Any] = {
            "recordings": len(np.unique(groups_N)),
            "hits": len(hits),
            "right": int(right.sum()),
            "spread": spread,
            "brier_score_as_probability": calibration.brier(before, right),
            "brier": calibration.brier(out_of_fold, right),
            "brier_of_the_mean": calibration.brier(np.full(len(right), right.mean()), right),
            "calibration_error_score_as_probability": calibration.calibration_error(before, right),
            "calibration_error": calibration.calibration_error(out_of_fold, right),
        }
        calibration.Calibration(
            made_with=told["scored_with"],
            pooled=(float(pooled[0]), float(pooled[1])),
            species={name: (float(a), float(b)) for name, (a, b) in zip(found, lines, strict=True)},
            top_k=told["options"]["top_k"],
            measured=measured,
        ).write(options.out)
        picture_url = options.out.removesuffix(".json") + ".png"
        urls.write_bytes(picture_url, _picture(before, out_of_fold, right))
        mlflow.log_metrics({name: float(value) for name, value in measured.items()})
        mlflow.log_dict(measured, "measured.json")
    _say(options, picture_url, measured)
    return measured


def _table(url: str, name: str, columns: list[str], recordings: list[str] | None = None) -> Any:
    """Columns of one of a run's tables; of some recordings alone where they are given."""
    import pyarrow.dataset as ds

    from songsight.store import urls

    filesystem, root = urls.arrow_filesystem(urls.join(url, name))
    rows = ds.field("recording").isin(recordings) if recordings is not None else None
    return ds.dataset(root, filesystem=filesystem, format="parquet").to_table(columns, filter=rows)


def _names(url: str | None, hits: Any) -> dict[str, str]:
    """Labels in lower case to scientific names: those, common names, and what `--names` adds."""
    from songsight.store import tables

    columns = [hits[name].to_pylist() for name in ("scientific_name", "common_name")]
    of = {common.lower(): name for name, common in set(zip(*columns, strict=True)) if common}
    of |= {name.lower(): name for name in set(columns[0])}
    if url:
        rows = tables.read_table(url, "--names", ("label", "scientific_name")).to_pylist()
        of |= {str(row["label"]).lower(): row["scientific_name"] for row in rows}
    return of


def _picture(before_N: np.ndarray, after_N: np.ndarray, right_N: np.ndarray) -> bytes:
    """The reliability diagram, PNG: how often hits of a probability are right, before and after."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from inference.match import calibration

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


def _say(options: Options, picture_url: str, measured: dict[str, Any]) -> None:
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
    print(f"calibration: {options.out}; picture: {picture_url}")


if __name__ == "__main__":
    from jobs.cli import command

    command("calibrate")
