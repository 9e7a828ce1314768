from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from distill.train import optimizer
from distill.train.recipe import Recipe
from distill.train.step import Learner
from songsight.models import student


class _Rates:
    lr, head_lr, weight_decay = 1e-4, 1e-3, 0.05


RECIPE = cast(Recipe, _Rates)


@pytest.fixture
def learner(clap: Path) -> Learner:
    return Learner(student.from_base(str(clap), 48).requires_grad_(True), "siglip")


def names_of(learner: Learner, groups: list[dict[str, Any]], decayed: bool) -> set[str]:
    names = {id(weight): name for name, weight in learner.named_parameters()}
    return {
        names[id(weight)] for group in groups if bool(group["weight_decay"]) == decayed for weight in group["params"]
    }


def test_weight_decay_is_for_matrices_but_tables_of_positions(learner: Learner) -> None:
    groups = optimizer.parameter_groups(learner, RECIPE)
    decayed, left = names_of(learner, groups, True), names_of(learner, groups, False)
    assert decayed | left == {name for name, _ in learner.named_parameters()}
    assert {"student.tower.patches.weight", "student.tower.blocks.0.qkv.weight", "student.head.weight"} <= decayed
    tables = {name for name in decayed | left if name.endswith("position_bias")}
    assert len(tables) == 4
    assert tables <= left
    assert not [name for name in decayed if "norm" in name or name.endswith("bias")]
    assert {"bias", "student.log_scale"} <= left


def test_what_began_with_the_tables_decayed_goes_on_so(learner: Learner) -> None:
    before = optimizer._adamw(optimizer.parameter_groups(learner, RECIPE, lambda _, weight: weight.ndim > 1))
    for group in before.param_groups:
        group["lr"] /= 2
    kept = before.state_dict()
    again, peaks = optimizer.adamw(learner, RECIPE, kept)
    assert "student.tower.blocks.0.position_bias" in names_of(learner, again.param_groups, True)
    assert [group["lr"] for group in again.param_groups] == [peak / 2 for peak in peaks]
    fresh, _ = optimizer.adamw(learner, RECIPE)
    again, _ = optimizer.adamw(learner, RECIPE, fresh.state_dict())
    assert "student.tower.blocks.0.position_bias" in names_of(learner, again.param_groups, False)
