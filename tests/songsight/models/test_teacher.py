from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from songsight.errors import UserError
from songsight.models import teacher
from tests import checkpoints

LOAD_OFFLINE = """
import numpy as np
from PIL import Image
from songsight.models import teacher
loaded = teacher.load("hf-hub:imageomics/bioclip-2")
texts = loaded.embed_texts(["Animalia Chordata Aves Passeriformes Turdidae Turdus merula", "Turdus merula"])
image = loaded.embed_images([Image.new("RGB", (300, 200), "green")])
print(loaded.width, texts.shape, image.shape, loaded.image_resize, np.linalg.norm(texts, axis=1).round(4).tolist())
"""


@pytest.mark.slow
def test_loads_bioclip_2_from_the_hub_cache(tmp_path: Path) -> None:
    """The published architecture (open_clip ViT-L-14, 428 M parameters) and layout, with the hub out of reach."""
    made = checkpoints.open_clip_dir(tmp_path / "made", "ViT-L-14")
    checkpoints.lay_in_hub_cache(made, tmp_path / "hub", "imageomics/bioclip-2")
    run = subprocess.run(
        [sys.executable, "-c", LOAD_OFFLINE],
        env={"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split("\n")[0] == "768 (2, 768) (1, 768) shortest [1.0, 1.0]"
    (made / "open_clip_model.safetensors").unlink()  # 1.7 GB that the next tests need not keep


def test_names_of_one_folder_load_the_same_weights(teacher_dir: Path) -> None:
    plain, schemed = teacher.load(str(teacher_dir)), teacher.load(f"local-dir:{teacher_dir}")
    assert plain.fingerprint == schemed.fingerprint
    np.testing.assert_array_equal(plain.embed_texts(["Parus major"]), schemed.embed_texts(["Parus major"]))


def test_fingerprints_tell_weights_apart(teacher_dir: Path, tmp_path: Path) -> None:
    other = teacher.load(str(checkpoints.open_clip_dir(tmp_path / "other", seed=1)))
    assert other.fingerprint != teacher.load(str(teacher_dir)).fingerprint


def test_squash_keeps_what_the_crop_loses(teacher_dir: Path) -> None:
    """A wide picture whose left edge is white: the crop cuts the edge off, the squash does not."""
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste("white", (0, 0, 60, 100))
    cropped, squashed = (teacher.load(str(teacher_dir), resize) for resize in ("checkpoint", "squash"))
    assert (cropped.image_resize, squashed.image_resize) == ("shortest", "squash")
    left = [t.transform(wide)[:, :, 0].mean() - t.transform(wide)[:, :, -1].mean() for t in (cropped, squashed)]
    assert abs(float(left[0])) < 1e-3
    assert float(left[1]) > 1


def test_many_texts_are_embedded_in_their_order(teacher_dir: Path) -> None:
    loaded = teacher.load(str(teacher_dir))
    texts = [f"species {number}" for number in range(300)]
    together = loaded.embed_texts(texts)
    np.testing.assert_allclose(together[[0, 299]], loaded.embed_texts([texts[0], texts[299]]), atol=1e-5)
    assert loaded.embed_texts([]).shape == (0, 48)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--teacher nobody/nothing: neither .*hf download nobody/nothing"):
        teacher.load("hf-hub:nobody/nothing")
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="this folder is not an open_clip model"):
        teacher.load(str(tmp_path / "x"))
