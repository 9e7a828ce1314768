"""`songsight evaluate --compare` of two runs of labelled benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inference.benchmarks import comparison, kept
from inference.evaluation import comparison as of_retrieval
from inference.evaluation import files, table
from songsight.errors import UserError
from songsight.store import urls

if TYPE_CHECKING:
    from jobs.evaluate import Options


def run(folders: Sequence[str], records: Sequence[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Prints the differences in each part that both runs have, writes them to `--out`, and returns them.

    Args:
        folders: where the two runs' files are.
        records: their `benchmark.json`.
        options: of the job.

    Raises:
        UserError: no part in common, or parts that cannot be compared.
    """
    of_a, of_b = (record["parts"] for record in records)
    common = [name for name in of_a if name in of_b]
    if not common:
        raise UserError(
            f"--compare: {options.compare[0]} has {', '.join(of_a)}, {options.compare[1]} {', '.join(of_b)}: no part "
            "in common"
        )
    print("\n".join(f"{side}: {options.compare[i]} ({records[i]['options']['model']})" for i, side in enumerate("AB")))
    result: dict[str, Any] = {}
    for name in common:
        result[name] = _part(name, folders, [of_a[name], of_b[name]], options)
    return result


def _part(name: str, folders: Sequence[str], parts: Sequence[dict[str, str]], options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as a_copy, tempfile.TemporaryDirectory() as b_copy:
        a, b = (
            kept.part(folder, part["scores"], copy)
            for folder, part, copy in zip(folders, parts, (a_copy, b_copy), strict=True)
        )
        rows, counts = comparison.compare(a, b, options.resamples, options.seed)
    heading = (
        f"{name}: {counts['units']} units of {counts['recordings']} recordings in both, {counts['only_a']} units in A "
        f"alone, {counts['only_b']} in B alone; 95 % intervals from {options.resamples} paired bootstrap resamples, "
        "p not corrected for their number"
    )
    _show(f"comparison_{name}", rows, heading, options)
    found = {"comparison": rows, **counts}
    if all("retrieval" in part for part in parts):
        sides = [files.read(urls.join(f, p["retrieval"])) for f, p in zip(folders, parts, strict=True)]
        if len({side.record["fingerprints"]["photographs"] for side in sides}) > 1:
            print(f"\n{name}: measured on different photographs, so that what sound finds is not compared")
            return found
        rows, counts = of_retrieval.compare(sides[0], sides[1], options.resamples, options.seed)
        heading = f"{name}, sound finds pictures: {counts['recordings']} recordings in both"
        _show(f"comparison_{name}_retrieval", rows, heading, options)
        found["retrieval"] = {"comparison": rows, **counts}
    return found


def _show(name: str, rows: list[dict[str, Any]], heading: str, options: Options) -> None:
    same = sorted({row["method"] for row in rows} - {row["method"] for row in rows if row["difference"]})
    shown = [row for row in rows if row["method"] not in same]
    print(f"\n{heading}")
    if shown:
        print(f"\n{table.markdown(shown, of_retrieval.SHOWN, species=True)}")
    if same:
        print(f"\nthe same in both: {', '.join(same)}")
    if options.out:
        for file, text in files.tables_as_text(name, rows, of_retrieval.SHOWN, heading).items():
            urls.write_bytes(urls.join(options.out, file), text.encode())
