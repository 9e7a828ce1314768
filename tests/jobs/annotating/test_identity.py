from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference.annotate.ledger import Ledger
from inference.annotate.record import Record
from inference.archive.spans import Windows
from jobs import annotate
from jobs.annotating import identity
from songsight.errors import UserError

OPTIONS: dict[str, Any] = {"gallery": "g", "out": "o", "archive": "s3://forest/2025", "model": "m"}


# Options that change no hit by themselves: what they name is hashed, or they are in `windows` or the precision.
APART = {"gallery", "model", "calibration", "range", "species_list", "window_s", "hop_s", "precision"}
APART |= {"out", "from_embeddings", "merge_gap_s", "dry_run", "batch_size", "actors", "gpus_per_actor"}


def run_id(cls: type = annotate.Options, **changed: Any) -> str:
    options = cls(**(OPTIONS | changed))
    return identity.run_identity(annotate.as_command(options), Windows(3.0, 3.0), None, {"model": "a", "gallery": "b"})


def test_a_run_is_what_0_1_took_it_for() -> None:
    """Folders hold these, by version 0.1's own code."""
    assert run_id() == "45176dfa102ebd40"
    other = run_id(top_k=2, embeddings="binary", timezone="Europe/Berlin", latitude=1.5, longitude=-2.0)
    assert other == "25e4986af3b44823"


def test_every_option_is_known_to_decide_hits_or_not() -> None:
    fields = dataclasses.fields(annotate.Options)
    deciding = {f.name for f in fields if run_id(**{f.name: "another"}) != run_id()}
    assert deciding == {f.name for f in fields} - APART


def test_an_option_that_came_since_counts_where_it_changes_hits() -> None:
    @dataclass(frozen=True)
    class Later(annotate.Options):
        context_s: float = field(default=9.0, metadata={"in_0_1": 0.0})
        bridge: float = field(default=0.5, metadata={"in_0_1": 0.25})  # was one of 0.1's already

    assert run_id(Later, context_s=0.0, bridge=0.25) == run_id()
    assert len({run_id(), run_id(Later, bridge=0.25), run_id(Later, context_s=0.0)}) == 3


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
        {"channel": "left"},
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


def test_a_run_in_a_precision_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    """Version 0.1 wrote such; files were added since, or the command is given without its `--precision`."""
    (tmp_path / "run.json").write_bytes(Record("other", precision="int8").as_bytes())
    with pytest.raises(UserError, match=r"--out .* was annotated with --precision int8, which is gone: give a new"):
        identity.refuse_another(str(tmp_path), Ledger(str(tmp_path), "mine"))
