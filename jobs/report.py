"""Draw the page of an annotated archive: each species' best hits to see and to hear, beside matching photographs.

songsight report --annotated annotated --out report.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import urls


@dataclass(frozen=True)
class Options:
    """Options of `songsight report`."""

    annotated: str
    """what `songsight annotate` wrote: folder or URL"""
    out: str = "report.html"
    """the page, one self-contained HTML file"""
    gallery: str | None = None
    """the gallery, where it is no longer at the name that the run holds"""
    title: str = "What sang"
    """heading of the page"""
    per_species: int = 3
    """hits to show of a species"""
    most_species: int = 100
    """species to show, those with the best hits"""
    evaluation: str | None = None
    """`table.json` of `songsight evaluate`, to show above the hits"""


def main(options: Options) -> None:
    """Writes the page."""
    opts.require_positive(per_species=options.per_species, most_species=options.most_species)
    from inference.match import gallery
    from inference.report import page as report

    annotated = report.read(options.annotated)
    shown = gallery.read(options.gallery or annotated.record.gallery)
    evaluation = None
    if options.evaluation:
        if not urls.exists(options.evaluation):
            raise UserError(f"--evaluation: no such file: {options.evaluation}")
        evaluation = _evaluation(options.evaluation)
    urls.require_writable_file(options.out, "--out")
    text = report.page(annotated, shown, options.title, options.per_species, options.most_species, evaluation)
    urls.write_bytes(options.out, text.encode())
    print(f"page: {options.out} ({len(text) / 1e6:.1f} MB)")


def _evaluation(url: str) -> list[dict[str, Any]]:
    """The rows of a `table.json`."""
    try:
        rows = json.loads(urls.read_bytes(url))
    except ValueError as error:
        raise UserError(f"--evaluation {url}: not JSON: {error}") from None
    wanted = {"method", "mAP", "mAP_low", "mAP_high", "queries", "photographs"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
        raise UserError(f"--evaluation {url}: should be the table.json that `songsight evaluate --out` writes")
    return rows


if __name__ == "__main__":
    from jobs.cli import command

    command("report")
