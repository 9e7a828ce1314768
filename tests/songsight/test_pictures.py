from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from distill.data import text_bank
from songsight import pictures
from songsight.audio.clips import Clips, Features
from songsight.models import student
from songsight.store import tables
from tests.conftest import SPECIES, World

WIDTH = len(SPECIES)


def thumbnail(colour: tuple[int, int, int]) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (240, 160), colour).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def look(world: World, model_dir: Path) -> tuple[pictures.HeldOut, student.Student]:
    """Held-out recordings whose species' photographs are the unit vectors; the last species has none."""
    model = student.load(str(model_dir))
    table = tables.read_table(str(world.recordings), "--recordings", (), tables.RECORDINGS)
    plan = text_bank.plan(table, {"sci": 1.0})
    clips = Clips.of(table, str(world.recordings), Features.of(model.mel, 0))
    labels = np.repeat(np.arange(WIDTH - 1, dtype=np.int32), 2)
    thumbnails = pa.chunked_array([[thumbnail((40 * number, 0, 255))] for number in range(len(labels))])
    shown = pictures.Photographs(thumbnails, [plan.species[label] for label in labels], plan.species)
    names = np.eye(WIDTH, dtype=np.float32)
    return pictures.HeldOut(clips, plan.species_of_row, names, names[labels], labels, shown), model


def test_each_species_comes_before_any_second_recording() -> None:
    species = np.array([2, 2, 2, 0, 0, 1, 3])
    assert pictures.choose(species, np.array([0, 1, 2])).tolist() == [3, 4, 5, 0, 1, 2]
    assert pictures.choose(species, np.array([0, 1, 2]), 4).tolist() == [3, 4, 5, 0]
    assert pictures.choose(np.arange(100), np.arange(100), 3).tolist() == [0, 50, 99]
    assert pictures.choose(species, np.array([7])).tolist() == []


def test_right_photographs_are_framed_in_green(look: tuple[pictures.HeldOut, student.Student]) -> None:
    held_out, model = look
    rows = np.arange(len(held_out.species))
    vectors = held_out.name_vectors[held_out.species]  # each recording finds its own species' two photographs first
    sheet = pictures.draw(vectors, rows, held_out, model.mel, "After epoch 1")
    top, left = 64, 28 + 400 + 28
    frames = [sheet.getpixel((left + place * 182 + 1, top + 1)) for place in range(pictures.PHOTOGRAPHS)]
    green, red = (46, 158, 79), (201, 71, 59)
    assert frames == [green, green, red, red, red]
    assert sheet.getpixel((left + 84, top + 84))[2] == 255  # the photograph itself
    spectrogram = np.asarray(sheet)[top : top + 168, 28:428]
    assert len(np.unique(spectrogram.reshape(-1, 3), axis=0)) > 50


def test_a_recording_that_went_away_is_no_reason_to_stop(look: tuple[pictures.HeldOut, student.Student]) -> None:
    import dataclasses

    held_out, model = look
    gone = dataclasses.replace(held_out.clips, paths=["/no/such.wav"] * len(held_out.clips.paths))
    rows = np.arange(len(held_out.species))
    vectors = held_out.name_vectors[held_out.species]
    sheet = pictures.draw(vectors, rows, dataclasses.replace(held_out, clips=gone), model.mel, "After epoch 1")
    assert sheet.getpixel((100, 100)) == sheet.getpixel((400, 200)) == (122, 119, 112)
