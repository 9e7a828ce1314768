"""Tables of a benchmark or a check: printed, kept in `--out`, logged to the MLflow run."""

from __future__ import annotations

import math
import re
from typing import Any

import mlflow

from inference.evaluation import files, table
from jobs.evaluating import results

_INTERVAL = ("_low", "_high")


def keep(
    name: str, rows: list[dict[str, Any]], heading: str, out: str | None, named: str = "", log: bool = True
) -> None:
    """Prints a table, logs it and its figures, and writes it as JSON, Markdown and CSV.

    Args:
        name: of the files.
        rows: one object a row; a measure's interval is `<measure>_low` and `_high`, over species `_species_low`, ….
        heading: text above the table.
        out: folder or URL; None for none.
        named: what MLflow's metrics begin with; the files' name if not given.
        log: whether the figures are logged one by one, too.
    """
    shown = columns(rows)
    print(f"{heading}\n\n{table.markdown(rows, shown)}\n")
    texts = files.tables_as_text(name, rows, shown, heading)
    for file, text in texts.items():
        mlflow.log_text(text, file)
    if out:
        results.write({file: text.encode() for file, text in texts.items()}, out)
    if log:
        mlflow.log_metrics(metrics(named or name, rows))


def columns(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The columns of a table under their own names, without the ends of intervals, which stand beside their figures."""
    return {key: key for row in rows for key in row if not key.endswith(_INTERVAL)}


def metrics(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Figures by names of their own, `robustness.mAP.MP3 32 kbit/s`: the table, the measure, the words of the row."""
    found = {}
    for row in rows:
        words = [value for value in row.values() if isinstance(value, str)]
        for key, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                # MLflow takes letters of ASCII, digits and a few signs.
                found[re.sub(r"[^A-Za-z0-9_\-./]+", " ", ".".join([name, key, *words]))] = float(value)
    return found
