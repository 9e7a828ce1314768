from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.match import zero_shot
from inference.match.gallery import Gallery
from songsight import metrics
from songsight.errors import UserError
from songsight.models import clap as claps
from songsight.models import encoder as encoders
from tests import checkpoints
from tests.inference.match.test_matching import gallery

SPECIES = [("Turdus merula", "Eurasian Blackbird"), ("Strix aluco", None)]


def same_as_transformers(folder: Path) -> None:
    """Both halves give what transformers' own ClapModel gives."""
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    theirs = ClapModel.from_pretrained(folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    encoder, text = claps.load(str(folder))
    wave = np.random.default_rng(0).standard_normal(encoder.mel.clip_samples).astype(np.float32) * 0.1
    features = extractor(wave, sampling_rate=encoder.mel.sample_rate_hz, return_tensors="pt")
    with torch.inference_mode():
        audio = theirs.get_audio_features(**features).pooler_output.numpy()
    np.testing.assert_allclose(encoder.embed(torch.from_numpy(wave[None])).numpy(), audio, atol=2e-4)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = ["Turdus merula", "Strix aluco", "Eurasian Blackbird", "Strix aluco"]
    with torch.inference_mode():
        vectors = theirs.get_text_features(**tokenizer(said, padding=True, return_tensors="pt")).pooler_output.numpy()
    vectors = metrics.unit(vectors)
    np.testing.assert_allclose(text.names(SPECIES), metrics.unit(vectors[:2] + vectors[2:]), atol=2e-4)
    assert encoder.width == audio.shape[1] == vectors.shape[1]
    assert encoder.temperature == pytest.approx(float(np.exp(-theirs.logit_scale_a.item())))


def test_a_small_clap_model(clap: Path) -> None:
    same_as_transformers(clap)


def test_the_published_architecture(tmp_path: Path) -> None:
    same_as_transformers(checkpoints.clap(tmp_path / "biolingual", small=False))


def test_the_kind_of_a_model_is_told_from_its_folder(
    clap: Path, model_dir: Path, teacher_dir: Path, tmp_path: Path
) -> None:
    assert encoders.method(str(clap)) == "zero-shot"
    assert encoders.method(str(model_dir)) == "distilled"
    for folder in (teacher_dir, tmp_path):  # it is the loader that says what is wrong
        assert encoders.method(str(folder)) == "distilled"
        with pytest.raises(UserError, match="not a songsight model"):
            encoders.load(str(folder))
    with pytest.raises(UserError, match="no such folder"):
        encoders.method("/no/model")


def test_a_tower_that_is_not_supported_is_one_line(clap: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import ClapConfig, ClapModel

    folder = tmp_path / "fused"
    shutil.copytree(clap, folder)
    config = ClapConfig.from_pretrained(clap)
    config.audio_config.enable_fusion = True
    config.audio_config.fusion_type = "channel_map"
    ClapModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="crops as channels") as error:
        claps.load(str(folder))
    assert "\n" not in str(error.value)


def test_names_then_the_most_typical_photographs() -> None:
    shown = gallery(list("bbbbaac"))
    texts = metrics.unit(np.random.default_rng(5).standard_normal((3, 6))).astype(np.float32)
    shown = Gallery({}, shown.images, shown.vectors, shown.names, texts)
    names = metrics.unit(np.random.default_rng(6).standard_normal((3, 9))).astype(np.float32)
    windows = metrics.unit(np.random.default_rng(7).standard_normal((12, 9))).astype(np.float32)
    matcher = zero_shot.NameMatcher(shown, ["a", "b", "z"], names, top_k=2)
    found = matcher.match(windows)
    for w, window in enumerate(windows):
        cosines = names @ window
        order = np.argsort(-cosines)[:2]
        assert list(found.species[w]) == list(order)
        np.testing.assert_allclose(found.scores[w], cosines[order], rtol=1e-5)
        for k, number in enumerate(order):
            rows = [row for row in found.images[w, k] if row >= 0]
            if number == 2:  # no photograph shows it
                assert rows == []
                continue
            own = np.flatnonzero(shown.species == "ab"[number])
            typical = sorted(own, key=lambda row: -float(shown.vectors[row] @ texts[number]))
            assert rows == typical[:3]
            np.testing.assert_allclose(
                found.image_scores[w, k, : len(rows)], shown.vectors[rows] @ texts[number], rtol=1e-5
            )


def test_what_is_added_decides() -> None:
    shown = gallery(list("bba"))
    names = metrics.unit(np.random.default_rng(6).standard_normal((2, 9))).astype(np.float32)
    matcher = zero_shot.NameMatcher(shown, ["a", "b"], names, top_k=1)
    found = matcher.match(names, np.array([[-np.inf, 0], [-np.inf, 0]], np.float32))
    assert list(found.species[:, 0]) == [1, 1]
