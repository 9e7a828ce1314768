from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.data import text_bank
from songsight.models import teacher
from songsight.store import urls

TEXTS = ["Turdus merula", "a song thrush", "Aves"]


@pytest.fixture
def taught_by(teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> teacher.Teacher:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return teacher.load(str(teacher_dir))


def test_the_bank_is_a_file_in_memory_once(taught_by: teacher.Teacher, tmp_path: Path) -> None:
    url = text_bank.stored(TEXTS, taught_by, str(tmp_path / "state"))
    assert Path(url).parent == tmp_path / "state"
    bank = text_bank.read(url)
    assert isinstance(bank, np.memmap)
    np.testing.assert_allclose(bank, taught_by.embed_texts(TEXTS), atol=1e-6)


def test_the_same_texts_are_embedded_once(taught_by: teacher.Teacher, tmp_path: Path) -> None:
    first = text_bank.read(text_bank.stored(TEXTS, taught_by, str(tmp_path / "a")))
    silent = replace(taught_by, model=None)  # would fail if it were asked again
    again = text_bank.read(text_bank.stored(TEXTS, silent, str(tmp_path / "b")))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(AttributeError):
        text_bank.stored([*TEXTS, "new"], silent, str(tmp_path / "b"))


def test_a_remote_bank_is_copied_once(taught_by: teacher.Teacher, tmp_path: Path) -> None:
    there = text_bank.stored(TEXTS, taught_by, "memory://state")
    shutil.rmtree(tmp_path / "cache")  # as on another node
    bank = text_bank.read(there)
    assert isinstance(bank, np.memmap)
    urls.remove_file(there)
    np.testing.assert_array_equal(bank, text_bank.read(there))


def test_its_name_tells_teacher_texts_and_tokenizer_apart(taught_by: teacher.Teacher, tmp_path: Path) -> None:
    other_words = replace(taught_by, tokenizer=lambda texts: taught_by.tokenizer([text.upper() for text in texts]) * 0)
    names = {
        text_bank.stored(texts, by, str(tmp_path))
        for texts, by in (
            (TEXTS, taught_by),
            (TEXTS[:2], taught_by),
            (TEXTS, replace(taught_by, fingerprint="other")),
            (TEXTS, other_words),
            (TEXTS, replace(taught_by, architecture="other")),
        )
    }
    assert len(names) == 5


def test_equal_weights_in_another_architecture_are_another_teacher(teacher_dir: Path, tmp_path: Path) -> None:
    """As OpenAI's CLIP with QuickGELU and a copy that was saved without it."""
    quick = tmp_path / "quick"
    shutil.copytree(teacher_dir, quick)
    config = json.loads((quick / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (quick / "open_clip_config.json").write_text(json.dumps(config))
    one, again, other = (teacher.load(str(folder)) for folder in (teacher_dir, teacher_dir, quick))
    assert one.architecture == again.architecture != other.architecture
    assert one.fingerprint == other.fingerprint
    assert not np.allclose(one.embed_texts(TEXTS), other.embed_texts(TEXTS), atol=1e-6)


def test_many_texts_are_embedded_by_a_ray_job(
    taught_by: teacher.Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_started: None
) -> None:
    monkeypatch.setattr(text_bank, "TEXTS_PER_BLOCK", 2)
    bank = text_bank.read(text_bank.stored(TEXTS, taught_by, str(tmp_path / "state"), actors=2))
    np.testing.assert_allclose(bank, taught_by.embed_texts(TEXTS), atol=1e-5)
