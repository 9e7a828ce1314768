"""The page of an evaluation: its tables and pictures in one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

from inference.evaluation import table


def page(
    heading: str,
    facts: list[str],
    sections: list[tuple[str, list[table.Row], Mapping[str, str]]],
    pictures: Mapping[str, tuple[str, bytes]],
    record: Mapping[str, Any],
) -> str:
    """The page as HTML text.

    Args:
        heading: of the page.
        facts: lines below it.
        sections: (what a table tells, its rows, its columns and their headings).
        pictures: PNG bytes by file name, each with what it shows.
        record: `evaluation.json`: how it was made.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources.files("inference.evaluation").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    bars = {row["method"]: row["mAP"] for _, rows, _ in sections[:1] for row in rows if row.get("mAP") is not None}
    return template.render(
        heading=heading,
        facts=facts,
        sections=sections,
        text_of=table.text_of,
        known=lambda value: value is not None and value == value,
        bars=bars,
        pictures=[
            (name, told, "data:image/png;base64," + base64.b64encode(data).decode())
            for name, (told, data) in pictures.items()
        ],
        record=record,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
