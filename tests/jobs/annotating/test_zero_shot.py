"""Hits on day one: an untouched ClapModel names the species."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import annotate
from tests.conftest import World

KEYS = [("recording", "ascending"), ("start_s", "ascending"), ("rank", "ascending")]


def hits(out: Path) -> list[dict]:
    return pq.read_table(out / "hits").sort_by(KEYS).to_pylist()


def test_an_untouched_model_annotates_and_is_marked(
    world: World, gallery_dir: Path, clap: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, ClapModel

    from inference.match import gallery
    from songsight.audio.reader import read_mono
    from songsight.metrics import unit
    from songsight.models import clap as claps

    (tmp_path / "species.txt").write_text("Turdus merula\nCorvus corax_Common Raven\nStrix aluco\n")
    how = {"gallery": str(gallery_dir), "min_score": -1.0, "top_k": 3, "species_list": str(tmp_path / "species.txt")}
    out = tmp_path / "out"
    annotate.main(
        annotate.Options(archive=str(world.archive), model=str(clap), out=str(out), embeddings="float16", **how)  # type: ignore[arg-type]
    )
    record = json.loads((out / "run.json").read_text())
    assert record["encoder"]["method"] == "zero-shot"
    found = hits(out)
    assert {hit["method"] for hit in found} == {"zero-shot"}
    assert {hit["scientific_name"]: hit["common_name"] for hit in found} == {
        "Turdus merula": "Eurasian Blackbird",
        "Corvus corax": "Common Raven",
        "Strix aluco": None,
    }
    assert all(bool(hit["images"]) == (hit["scientific_name"] != "Corvus corax") for hit in found)

    # The chain by hand, for one window.
    wave = read_mono(str(world.archive / "site-a" / "20240514_053000.wav"), 30.0, 33.0, 16000)
    heard = claps.load(str(clap))[0].embed(torch.from_numpy(wave[None])).numpy()[0]
    theirs, tokenizer = ClapModel.from_pretrained(clap).eval(), AutoTokenizer.from_pretrained(clap)

    def text(said: str) -> np.ndarray:
        with torch.inference_mode():
            return unit(theirs.get_text_features(**tokenizer([said], return_tensors="pt")).pooler_output.numpy())

    window = [hit for hit in found if hit["recording"].endswith("053000.wav") and hit["start_s"] == 30]
    for hit in window:
        name = hit["scientific_name"]
        expected = unit(text(name) + text(hit["common_name"] or name))[0] @ heard
        assert hit["score"] == pytest.approx(expected, abs=1e-3)
    shown = gallery.read(str(gallery_dir))
    own = np.flatnonzero(shown.species == "Strix aluco")
    asked = shown.name_vectors[shown.names["scientific_name"].to_pylist().index("Strix aluco")]
    typical = shown.images["image_id"].to_pylist()[own[(shown.vectors[own] @ asked).argmax()]]
    assert next(hit for hit in window if hit["scientific_name"] == "Strix aluco")["images"][0]["image_id"] == typical

    again = tmp_path / "again"
    annotate.main(annotate.Options(from_embeddings=str(out), out=str(again), **how))  # type: ignore[arg-type]
    for before, after in zip(found, hits(again), strict=True):
        assert after["score"] == pytest.approx(before["score"], abs=2e-3)
        assert after["method"] == "zero-shot"
