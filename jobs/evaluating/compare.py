"""`songsight evaluate --compare`: two kept evaluations, and which differences between them are more than noise."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlflow

from inference.benchmarks import comparison as benchmarks
from inference.benchmarks import kept
from inference.evaluation import comparison, files, table
from inference.evaluation.comparison import SHOWN
from jobs.evaluating import results
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.store import urls


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Attributes:
        names: what the user calls the two: folders, URLs or MLflow runs.
        out: folder or URL for the tables; None for none.
        resamples, seed: of the bootstrap.
    """

    names: tuple[str, ...]
    out: str | None
    resamples: int
    seed: int

    def keep(self, name: str, rows: list[table.Row], heading: str) -> None:
        """Writes a table of differences to `out`."""
        if self.out:
            texts = files.tables_as_text(name, rows, SHOWN, heading)
            results.write({file: text.encode() for file, text in texts.items()}, self.out)


def run(wanted: Comparison) -> dict[str, Any]:
    """Prints the differences of two kept evaluations, writes them to `out`, and returns them.

    Raises:
        UserError: not two of them, or two that cannot be compared.
    """
    if len(wanted.names) != 2:
        raise UserError(f"--compare should name two folders that --out wrote (got {len(wanted.names)})")
    folders = [_folder_of(name) for name in wanted.names]
    records = [record for folder in folders if (record := kept.record(folder))]
    if len(records) == len(folders):
        return _benchmarks(folders, records, wanted)
    return _evaluations(folders, wanted)


def _folder_of(name: str) -> str:
    """Where an evaluation's files are: a folder or URL is itself, `runs:/ID` is the artifacts of that MLflow run.

    Raises:
        UserError: the store has no such run, or the run no such files.
    """
    if not name.startswith("runs:/"):
        return name
    tracking.experiment("evaluate")
    try:
        return mlflow.artifacts.download_artifacts(run_id=name.removeprefix("runs:/").strip("/"))
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(f"--compare {name}: {' '.join(str(error).split())[:300]}") from None


def _models(wanted: Comparison, records: Sequence[dict[str, Any]]) -> str:
    sides = zip("AB", wanted.names, records, strict=True)
    return "\n".join(f"{side}: {name} ({record['options']['model']})" for side, name, record in sides)


def _evaluations(folders: Sequence[str], wanted: Comparison) -> dict[str, Any]:
    """Two evaluations of recordings and photographs."""
    a, b = (files.read(folder) for folder in folders)
    rows, counts = comparison.compare(a, b, wanted.resamples, wanted.seed)
    heading = (
        f"{_models(wanted, [a.record, b.record])}\n"
        f"{counts['recordings']} recordings in both, {counts['only_a']} in A alone, {counts['only_b']} in B alone; "
        f"95 % intervals from {wanted.resamples} paired bootstrap resamples, p not corrected for their number"
    )
    wanted.keep("comparison", rows, heading)
    print(heading)
    same: dict[str, list[str]] = {}
    for name in dict.fromkeys(row["table"] for row in rows):
        same[name], differ = _same([row for row in rows if row["table"] == name])
        if differ:
            print(f"\n{name}\n\n{table.markdown(differ, SHOWN, species=True)}")
    for name, methods in same.items():
        where = "" if name == "table" else f" ({name})"
        if methods:
            print(f"\nthe same in both{where}: {'; '.join(methods) if where else ', '.join(methods)}")
    return {"comparison": rows, **counts}


def _benchmarks(folders: Sequence[str], records: Sequence[dict[str, Any]], wanted: Comparison) -> dict[str, Any]:
    """Two runs of labelled benchmarks: each part that both have."""
    of_a, of_b = (record["parts"] for record in records)
    common = [name for name in of_a if name in of_b]
    if not common:
        raise UserError(
            f"--compare: {wanted.names[0]} has {', '.join(of_a)}, {wanted.names[1]} {', '.join(of_b)}: no part "
            "in common"
        )
    print(_models(wanted, records))
    return {name: _part(name, folders, [of_a[name], of_b[name]], wanted) for name in common}


def _part(name: str, folders: Sequence[str], parts: Sequence[dict[str, str]], wanted: Comparison) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as a_copy, tempfile.TemporaryDirectory() as b_copy:
        a, b = (
            kept.part(folder, part["scores"], copy)
            for folder, part, copy in zip(folders, parts, (a_copy, b_copy), strict=True)
        )
        rows, counts = benchmarks.compare(a, b, wanted.resamples, wanted.seed)
    heading = (
        f"{name}: {counts['units']} units of {counts['recordings']} recordings in both, {counts['only_a']} units in A "
        f"alone, {counts['only_b']} in B alone; 95 % intervals from {wanted.resamples} paired bootstrap resamples, "
        "p not corrected for their number"
    )
    _show(f"comparison_{name}", rows, heading, wanted)
    result = {"comparison": rows, **counts}
    if not all("retrieval" in part for part in parts):
        return result
    sides = [files.read(urls.join(f, p["retrieval"])) for f, p in zip(folders, parts, strict=True)]
    if len({side.record["fingerprints"]["photographs"] for side in sides}) > 1:
        print(f"\n{name}: measured on different photographs, so that what sound finds is not compared")
        return result
    rows, counts = comparison.compare(sides[0], sides[1], wanted.resamples, wanted.seed)
    heading = f"{name}, sound finds pictures: {counts['recordings']} recordings in both"
    _show(f"comparison_{name}_retrieval", rows, heading, wanted)
    return result | {"retrieval": {"comparison": rows, **counts}}


def _show(name: str, rows: list[table.Row], heading: str, wanted: Comparison) -> None:
    differ = {row["method"] for row in rows if row["difference"]}  # NaN, too: what one could not measure is shown
    print(f"\n{heading}")
    if differ:
        print(f"\n{table.markdown([row for row in rows if row['method'] in differ], SHOWN, species=True)}")
    if same := sorted({row["method"] for row in rows} - differ):
        print(f"\nthe same in both: {', '.join(same)}")
    wanted.keep(name, rows, heading)


def _same(rows: list[table.Row]) -> tuple[list[str], list[table.Row]]:
    """(the methods that came out alike in every measure, sorted; the rows of the others)."""
    differ = {row["method"] for row in rows if row["difference"] and row["difference"] == row["difference"]}
    return sorted({row["method"] for row in rows} - differ), [row for row in rows if row["method"] in differ]
