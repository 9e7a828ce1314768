"""Where an evaluation's results go: the MLflow run, `--out`, `--save-scores` and the terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import mlflow
import numpy as np

from inference.evaluation import directions, files, measured, naming, probes, table
from inference.evaluation.files import Outcome
from inference.evaluation.measured import Evaluation
from jobs.shared import tracking
from songsight.store import lease, urls


def record(options: dict[str, Any], fingerprints: dict[str, str], run_id: str) -> dict[str, Any]:
    """How an evaluation was made, for its JSON file."""
    return {
        "options": options,
        "fingerprints": fingerprints,
        "versions": tracking.versions(),
        "git_commit": tracking.git_commit(),
        "run_id": run_id,
    }


def figures(found: Evaluation) -> dict[str, Any]:
    """What `evaluation.json` keeps of the figures; the first keys are those that the demo's summary has."""
    before, after = found.encoder
    result = {
        "audio_to_image_mAP": {row["method"]: row["mAP"] for row in found.table},
        "naming_top1": {row["encoder"]: row["zero_shot_top1"] for row in found.encoder},
        "queries": int(found.answered.sum()),
        "test_recordings": len(found.species),
        "photographs": len(found.photographs.species),
        "chance_mAP": found.chance,
    }
    if before["knn"] is not None:
        result |= {"knn_before": before["knn"], "knn_after": after["knn"]}
    return result | {
        "table": found.table,
        "directions": found.directions,
        "encoder": found.encoder,
        "naming": found.naming,
        "queries_without_species_in_gallery": int((~found.answered).sum()),
    }


def keep(outcome: Outcome, out: str | None, save_scores: str | None) -> None:
    """Logs an evaluation to the MLflow run, and writes it to `--out` and `--save-scores`."""
    mlflow.log_metrics(metrics(outcome.figures))
    keep_files(files.everything(outcome), out)
    if save_scores:
        found, ids = outcome.found, outcome.recording_ids
        shown, answered = found.photographs, np.flatnonzero(found.answered)
        names = {
            "query_species": [str(name) for name in found.species[answered]],
            "image_species": [str(name) for name in shown.species],
            "query_id": [ids[query] for query in answered],
            "image_id": [str(name) for name in shown.images["image_id"].to_pylist()],
        }
        files.save_scores(save_scores, found.queries[answered], shown.vectors, names)


def keep_files(data: Mapping[str, bytes], out: str | None) -> None:
    """Logs files to the MLflow run and writes them to `--out`, over those of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        write(data, folder)
        mlflow.log_artifacts(folder)
    if out:
        write(data, out)


def write(data: Mapping[str, bytes], folder: str) -> None:
    """Writes files by their names into a folder or below a URL."""
    lease.check()
    for name, content in data.items():
        urls.write_bytes(urls.join(folder, name), content)


def metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Every figure of the tables by a name of its own: `mAP.distilled`, `mAP.sound.picture.genus`, `knn.base`."""
    named: dict[str, Any] = {}
    for name, value in result.items():
        if name == "table":
            named |= {f"{key}.{row['method']}": number for row in value for key, number in row.items()}
        elif name == "directions":
            for row in value:
                where = f"{row['query']}.{row['gallery']}.{row['rank']}"
                named |= {f"{key}.{where}": number for key, number in row.items()}
        elif name == "naming":
            for row in value:
                named |= {f"{key}.{row['encoder']}.{row['text_type']}": number for key, number in row.items()}
        elif name == "encoder":
            named |= {f"{key}.{row['encoder']}": number for row in value for key, number in row.items()}
        elif isinstance(value, dict):
            named |= {f"{name}.{method}": number for method, number in value.items()}
        else:
            named[name] = value
    return {name: value for name, value in named.items() if isinstance(value, int | float) and value == value}


def markdown(outcome: Outcome) -> str:
    """The tables as they are printed."""
    found, result = outcome.found, outcome.figures
    heading = files.headings(found)
    lines = [heading["table"], "", table.markdown(found.table, measured.SHOWN, species=True)]
    lines += ["", heading["directions"], "", table.markdown(found.directions, directions.SHOWN)]
    lines += ["", heading["encoder"], "", table.markdown(found.encoder, probes.SHOWN)]
    lines += ["", heading["naming"], "", table.markdown(found.naming, naming.SHOWN), ""]
    chosen = [f"{row['method']} {row['ridge']:.3g}" for row in found.table if row["ridge"] is not None]
    lines.append(f"ridge penalties, chosen on texts of species left out: {', '.join(chosen)}")
    if result["queries_without_species_in_gallery"]:
        lines.append(
            f"{result['queries_without_species_in_gallery']} of {result['test_recordings']} recordings are of species "
            "that no photograph shows: they are left out where sound is to find a picture of its species, nowhere else"
        )
    if result["without_split"]:
        lines.append(f"{result['without_split']} rows without a split, beside rows that have one, left out")
    if result["undecodable"]:
        lines.append(f"{result['undecodable']} recordings could not be decoded")
    return "\n".join(lines)
