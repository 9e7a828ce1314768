"""What a reader of the table asks next: does it hold for other texts, look-alikes, unheard species, bad recordings?

In: a `Subject`, the vectors of an evaluation and what they were made of. Out: by name, tables of rows with intervals.

Read `subject` first, then any check: `text_types`, `confusable`, `unseen`, `robustness` (whose damage is done by
`distortions`), `renamed`.
"""

from __future__ import annotations

from collections.abc import Callable

from inference.checks import confusable, renamed, robustness, text_types, unseen
from inference.checks.subject import Rows, Subject

CHECKS: dict[str, Callable[[Subject], dict[str, Rows]]] = {
    "text-types": text_types.tables,
    "confusable": confusable.tables,
    "unseen": unseen.tables,
    "robustness": robustness.tables,
    "renamed": renamed.tables,
}

__all__ = ["CHECKS", "Rows", "Subject"]
