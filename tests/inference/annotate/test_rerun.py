"""Marks of what a command names, by which it is known to be done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from inference.annotate import rerun

COMMITS = ["a" * 40, "b" * 40]


def snapshot(cache: Path, commit: str) -> None:
    """What the hub's client keeps of a model."""
    folder = cache / "models--owner--bird"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def test_a_model_of_the_hub_is_known_by_the_commit_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "gallery.json").write_text("{}")
    options: dict[str, Any] = {"model": "owner/bird", "gallery": str(tmp_path / "gallery"), "top_k": 3}
    assert rerun.stamp(options, "archive") == ""  # not fetched yet: there is nothing to tell it by
    marks = []
    for commit in COMMITS:
        snapshot(tmp_path / "hub", commit)
        marks.append(rerun.stamp(options, "archive"))
        assert rerun.stamp(options, "archive") == marks[-1]
    marks += [rerun.stamp(options | {"top_k": 2}, "archive"), rerun.stamp(options, "another")]
    os.utime(tmp_path / "gallery" / "gallery.json", (1, 1))
    marks.append(rerun.stamp(options, "archive"))
    assert len({*marks}) == 5
    assert "" not in marks
    assert rerun.stamp(options | {"model": "/no/model"}, "archive") == ""
