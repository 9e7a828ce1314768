from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.annotate.ledger import Ledger
from inference.archive.spans import Windows
from jobs import annotate
from jobs.annotating import identity
from songsight.errors import UserError

OPTIONS: dict[str, Any] = {"gallery": "g", "out": "o", "archive": "s3://forest/2025", "model": "m"}


def run_id(**changed: Any) -> str:
    options = annotate.Options(**(OPTIONS | changed))
    return identity.run_identity(options, Windows(3.0, 3.0), None, {"model": "a", "gallery": "b"})


@pytest.mark.parametrize(
    "changed",
    [
        {"archive": "s3://forest/2025/"},
        {"out": "elsewhere"},
        {"merge_gap_s": 1.0},
        {"actors": "4"},
        {"batch_size": 2},
        {"gallery": "the same, moved"},
    ],
)
def test_what_changes_no_hit_is_the_same_run(changed: dict[str, Any]) -> None:
    assert run_id(**changed) == run_id()


@pytest.mark.parametrize(
    "changed",
    [
        {"archive": "s3://forest/2026"},
        {"min_score": 0.1},
        {"top_k": 1},
        {"score": "prototype"},
        {"bridge": 0.0},
        {"timezone": "+02:00"},
        {"site": "1"},
        {"embeddings": "binary"},
    ],
)
def test_what_changes_hits_is_another_run(changed: dict[str, Any]) -> None:
    assert run_id(**changed) != run_id()


def test_an_unfinished_run_of_others_is_left_alone(tmp_path: Path) -> None:
    mine, other = Ledger(str(tmp_path), "mine"), Ledger(str(tmp_path), "other")
    identity.refuse_another(str(tmp_path), mine)
    other.begin()
    with pytest.raises(UserError, match="holds another, unfinished run"):
        identity.refuse_another(str(tmp_path), mine)
    identity.refuse_another(str(tmp_path), other)
