"""`songsight evaluate --compare`: two kept evaluations, and which differences between them are more than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlflow

from inference.benchmarks import kept
from inference.evaluation import comparison, files, table
from jobs.evaluating import compare_benchmarks
from jobs.shared import tracking
from songsight.errors import UserError
from songsight.store import urls

if TYPE_CHECKING:
    from jobs.evaluate import Options


def run(options: Options) -> dict[str, Any]:
    """Prints the differences of two kept evaluations, writes them to `--out`, and returns them.

    Raises:
        UserError: not two of them, or two that cannot be compared.
    """
    if len(options.compare) != 2:
        raise UserError(f"--compare should name two folders that --out wrote (got {len(options.compare)})")
    folders = [_folder_of(name) for name in options.compare]
    records = [record for folder in folders if (record := kept.record(folder))]
    if len(records) == len(folders):
        return compare_benchmarks.run(folders, records, options)
    a, b = (files.read(folder) for folder in folders)
    rows, counts = comparison.compare(a, b, options.resamples, options.seed)
    heading = (
        f"A: {options.compare[0]} ({a.record['options']['model']})\n"
        f"B: {options.compare[1]} ({b.record['options']['model']})\n"
        f"{counts['recordings']} recordings in both, {counts['only_a']} in A alone, {counts['only_b']} in B alone; "
        f"95 % intervals from {options.resamples} paired bootstrap resamples, p not corrected for their number"
    )
    same = _same(rows)
    shown = [row for row in rows if row["method"] not in same.get(row["table"], ())]
    texts = files.tables_as_text("comparison", rows, comparison.SHOWN, heading)
    if options.out:
        for name, text in texts.items():
            urls.write_bytes(urls.join(options.out, name), text.encode())
    print(heading)
    for name in dict.fromkeys(row["table"] for row in shown):
        part = [row for row in shown if row["table"] == name]
        print(f"\n{name}\n\n{table.markdown(part, comparison.SHOWN, species=True)}")
    for name, methods in same.items():
        where = "" if name == "table" else f" ({name})"
        print(f"\nthe same in both{where}: {'; '.join(methods) if where else ', '.join(methods)}")
    return {"comparison": rows, **counts}


def _same(rows: list[table.Row]) -> dict[str, list[str]]:
    """By table, the methods that came out alike in every measure, sorted."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == name]
        differ = {row["method"] for row in own if row["difference"] and row["difference"] == row["difference"]}
        if alike := sorted({row["method"] for row in own} - differ):
            found[name] = alike
    return found


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
