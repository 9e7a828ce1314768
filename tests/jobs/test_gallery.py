from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inference.match import gallery as galleries
from jobs import cli, gallery
from songsight.models import prompts, teacher
from songsight.store import tables
from tests.conftest import World


def test_vectors_are_the_teachers_own(gallery_dir: Path, teacher_dir: Path, world: World) -> None:
    shown, loaded = galleries.read(str(gallery_dir)), teacher.load(str(teacher_dir))
    assert len(shown.vectors) == 12
    assert sorted(shown.species) == list(shown.species)
    for row, vector in zip(shown.images.to_pylist(), shown.vectors, strict=True):
        with Image.open(world.folder / row["path"]) as image:
            np.testing.assert_allclose(vector, loaded.embed_images([image])[0], atol=1e-5)
    texts = [prompts.text(row, "taxon_com") for row in shown.names.to_pylist()]
    np.testing.assert_allclose(shown.name_vectors, loaded.embed_texts(texts), atol=1e-5)
    info = json.loads((gallery_dir / "gallery.json").read_text())
    assert (info["width"], info["images"], info["species"], info["image_resize"]) == (48, 12, 4, "shortest")
    thumbnails = pq.read_table(gallery_dir / "images.parquet")["thumbnail"].to_pylist()
    assert all(data[:2] == b"\xff\xd8" for data in thumbnails)


def test_broken_photographs_go_to_quarantine(
    world: World, teacher_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ("good", "cut", "text", "gone", "pipe")
    rows = [{"path": f"{name}.jpg", "scientific_name": "Parus major"} for name in names]
    tables.write_table(str(tmp_path / "images.parquet"), pa.Table.from_pylist(rows))
    gallery.main(
        gallery.Options(
            images=str(tmp_path / "images.parquet"),
            teacher=str(teacher_dir),
            out=str(tmp_path / "g"),
            image_resize="squash",
        )
    )
    assert "5 listed = 1 embedded + 4 quarantined" in capsys.readouterr().out
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "g" / "quarantine.parquet").to_pylist()}
    assert {path: (row["reason"], row["size_bytes"]) for path, row in rows.items()} == {
        "cut.jpg": ("unreadable", 200),
        "text.jpg": ("unreadable", 10),
        "pipe.jpg": ("unreadable", rows["pipe.jpg"]["size_bytes"]),
        "gone.jpg": ("vanished", None),
    }
    assert rows["text.jpg"]["detail"] == "text.jpg, 10 bytes: no picture of a format that Pillow knows"
    assert rows["cut.jpg"]["detail"].startswith("cut.jpg, 200 bytes: ")
    assert json.loads((tmp_path / "g" / "gallery.json").read_text())["image_resize"] == "squash"


def test_bad_input_is_one_line(
    teacher_dir: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nameless.csv").write_text("path\na.jpg\n")
    for changed, message in (
        ({"--images": tmp_path / "nameless.csv"}, "has no column 'scientific_name' (it has path)"),
        ({"--images": "/no/images.parquet"}, "--images: no such file"),
        ({"--split": "dev"}, "--split dev: no photograph"),
        ({"--teacher": "/no/teacher"}, "--teacher /no/teacher: no such folder"),
        ({"--image-resize": "crop"}, "--image-resize should be one of checkpoint, squash (got crop)"),
    ):
        good = {"--images": world.images, "--teacher": teacher_dir, "--out": tmp_path / "g"}
        with pytest.raises(SystemExit) as stop:
            cli.main(["gallery", *[str(word) for pair in (good | changed).items() for word in pair]])
        said = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in said
        assert len(said.splitlines()) == 1
        assert not (tmp_path / "g").exists()
