from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from demoworld import base, contrastive, stand_ins, teacher
from songsight.models import prompts, student
from songsight.models import teacher as distill_teacher


@pytest.fixture(scope="module")
def pair(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pair")
    stand_ins.train(str(tiny_world), str(out / "teacher"), str(out / "base"), seed=1, teacher_steps=3, base_steps=3)
    return out


def test_open_clip_loads_the_teacher(pair: Path, tiny_world: Path):
    loaded = distill_teacher.load(f"local-dir:{pair / 'teacher'}")
    row = pq.read_table(tiny_world / "images.parquet").to_pylist()[0]
    vectors = loaded.embed_texts([prompts.text(row, kind) for kind in teacher.TEXT_TYPES])
    assert vectors.shape == (5, 128)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_transformers_loads_the_base(pair: Path):
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    folder = pair / "base"
    model, tokenizer = ClapModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    wave = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    features = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    assert features.shape == (1, 1, 256, 64)
    assert (extractor.truncation, extractor.padding, extractor.nb_max_samples) == ("rand_trunc", "repeatpad", 48_000)
    with torch.no_grad():
        audio = model.get_audio_features(input_features=features).pooler_output
        texts = tokenizer(["Velora nivalis", "the sound of a Northern Fernlark"], padding=True, return_tensors="pt")
        text = model.get_text_features(**texts).pooler_output
    assert audio.shape == (1, 128)
    assert text.shape == (2, 128)
    assert texts.input_ids[0, 0] == tokenizer.bos_token_id
    assert tokenizer.decode(texts.input_ids[0], skip_special_tokens=True).strip() == "Velora nivalis"


def test_a_student_grows_on_the_base(pair: Path):
    grown = student.from_base(str(pair / "base"), embedding_width=128)
    assert grown.embed(torch.zeros(2, grown.mel.clip_samples)).shape == (2, 128)


def test_a_failure_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Failed:
        sentinel, exitcode = 0, 1

        def __init__(self, **_):
            self.stopped = False

        def start(self): ...
        def join(self): ...
        def terminate(self): ...

    class Context:
        Process = Failed

    monkeypatch.setattr(stand_ins, "get_context", lambda _: Context)
    monkeypatch.setattr(stand_ins, "wait", lambda sentinels: sentinels)
    with pytest.raises(RuntimeError, match="could not be trained"):
        stand_ins.train(str(tmp_path), str(tmp_path / "teacher"), str(tmp_path / "base"))


def test_same_seed_same_weights(tiny_world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    transformers.logging.enable_progress_bar()
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        teacher.train_teacher(str(tiny_world), str(tmp_path / name / "teacher"), seed, steps=1)
        base.train_base(str(tiny_world), str(tmp_path / name / "base"), seed, steps=1)
        made.append(
            [
                (tmp_path / name / file).read_bytes()
                for file in ("teacher/open_clip_model.safetensors", "base/model.safetensors", "base/tokenizer.json")
            ]
        )
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]
    assert capfd.readouterr().err == ""


def test_trimmed_texts_have_the_same_vectors(pair: Path):
    loaded = distill_teacher.load(str(pair / "teacher"))
    tokens = loaded.tokenizer(["Velora nivalis", "Animalia Chordata Aves Veloriformes Veloridae Velora nivalis"])
    with torch.no_grad():
        whole = loaded.model.encode_text(tokens, normalize=True)
        trimmed = teacher._encode_trimmed(loaded.model, tokens)
    assert torch.allclose(whole, trimmed, atol=1e-5)


def test_no_batch_holds_a_species_twice_and_all_rows_are_seen():
    species = [f"species {index % 7}" for index in range(21)]
    batches: list[np.ndarray] = []
    weight = torch.nn.Parameter(torch.ones(()))

    def loss_of(chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        batches.append(chosen)
        return weight**2

    contrastive.fit("test", loss_of, [weight], species, steps=200, learning_rate=0.01, batch=5, seed=0)
    assert all(len({species[row] for row in batch}) == len(batch) == 5 for batch in batches)
    assert {int(row) for batch in batches for row in batch} == set(range(21))
    assert abs(weight.item()) < 1


def test_rows_with_the_same_text_are_matches():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1) for _ in range(2))
    turned = left[[1, 0, 2]]
    scale = torch.tensor(1.0)
    # Whose recording is whose makes no difference where both texts say the same …
    same = ["one", "one", "two"]
    assert contrastive.contrast(left, right, scale, same).item() == pytest.approx(
        contrastive.contrast(turned, right, scale, same).item(), abs=1e-5
    )
    # … and all the difference where they do not.
    apart = ["one", "other", "two"]
    gap = contrastive.contrast(left, right, scale, apart) - contrastive.contrast(turned, right, scale, apart)
    assert abs(gap.item()) > 0.05
