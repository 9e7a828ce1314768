from __future__ import annotations

import pytest
import torch

from distill.data.bad_rows import BadRows
from distill.data.order import Order
from distill.data.rows import REASON_OF


def noted(order: Order, most: float, rows: range) -> BadRows:
    bad = BadRows(order, most, rank=0, world=1)
    for row in rows:
        bad.note(torch.tensor([-1, row]), torch.tensor([-1, REASON_OF.index("vanished")]))
    return bad


@pytest.mark.parametrize(
    ("most", "found", "steps", "too_many"),
    [
        (0.01, 10, 100, False),  # a hundredth of the table
        (0.01, 11, 100, True),
        (0.01, 7, 1, False),  # of the first 8: a batch may be unlucky
        (0.9, 64, 8, True),  # all of the first 64
        (0.9, 57, 8, False),
        (0.5, 33, 8, True),
        (1.0, 64, 8, False),
    ],
)
def test_too_many_of_the_table_or_of_what_was_read(most: float, found: int, steps: int, too_many: bool) -> None:
    order = Order(rows=1000, batch_size=8, epochs=2, seed=0)
    assert noted(order, most, range(found)).too_many(steps) == too_many


def test_reasons_are_kept_by_row() -> None:
    order = Order(rows=1000, batch_size=8, epochs=2, seed=0)
    assert noted(order, 0.1, range(5, 3, -1)).of_all_ranks() == {4: "vanished", 5: "vanished"}
    assert noted(order, 0.1, range(0)).of_all_ranks() == {}


def test_early_questions_are_few() -> None:
    assert [step for step in range(1, 1000) if BadRows.early(step)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
