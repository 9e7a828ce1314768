from __future__ import annotations

import math
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.nn import functional as F

from distill import objectives
from distill.data import split
from distill.objectives import OBJECTIVES, Batch
from distill.objectives.siglip import INITIAL_BIAS, INITIAL_LOG_SCALE

SPECIES = torch.tensor([0, 1, 0, 2, 3, 1, 4, 4])
ALONE = torch.arange(8)
SCALE, BIAS = 7.0, -2.0


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(draw(seed, *shape), dim=-1)


# A tower of one layer: inputs [rows, 6] to pooled embeddings [rows, 5].
INPUTS, WEIGHT, BASE, TEXTS, NAMES = draw(0, 8, 6), draw(1, 5, 6), draw(2, 8, 5), unit(3, 8, 5), unit(4, 9, 5)


def batch(species: torch.Tensor = SPECIES) -> Batch:
    audio = F.normalize(INPUTS @ WEIGHT.T, dim=-1)
    return Batch(audio, TEXTS, species, torch.tensor(SCALE), torch.tensor(BIAS), NAMES)


def minus_log_softmax(logits: np.ndarray, index: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[index])


def both_ways(logits: np.ndarray, i: int, target: int) -> float:
    return (minus_log_softmax(logits[i], target) + minus_log_softmax(logits[:, i], target)) / 2


def infonce_by_hand(logits: np.ndarray, names: np.ndarray, species: np.ndarray) -> float:
    return float(np.mean([both_ways(logits, i, i) for i in range(len(logits))]))


def masked_by_hand(logits: np.ndarray, names: np.ndarray, species: np.ndarray) -> float:
    total = 0.0
    for i in range(len(logits)):
        kept = [i] + [j for j in range(len(logits)) if species[j] != species[i]]
        total += minus_log_softmax(logits[i, kept], 0) + minus_log_softmax(logits[kept, i], 0)
    return total / (2 * len(logits))


def multi_positive_by_hand(logits: np.ndarray, names: np.ndarray, species: np.ndarray) -> float:
    rows = []
    for i in range(len(logits)):
        positives = [j for j in range(len(logits)) if species[j] == species[i]]
        rows.append(np.mean([both_ways(logits, i, p) for p in positives]))
    return float(np.mean(rows))


def bank_by_hand(logits: np.ndarray, names: np.ndarray, species: np.ndarray) -> float:
    return float(np.mean([minus_log_softmax(names[i], species[i]) for i in range(len(logits))]))


def siglip_by_hand(logits: np.ndarray, names: np.ndarray, species: np.ndarray) -> float:
    total = 0.0
    for i in range(len(logits)):
        for j in range(len(logits)):
            yes = 1 / (1 + math.exp(-(logits[i, j] + BIAS)))
            total -= math.log(yes if species[i] == species[j] else 1 - yes)
    return total / len(logits)


BY_HAND = {
    "infonce": infonce_by_hand,
    "masked": masked_by_hand,
    "multi-positive": multi_positive_by_hand,
    "bank": bank_by_hand,
    "siglip": siglip_by_hand,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_equation(name: str) -> None:
    given = batch()
    logits, names = SCALE * (given.audio_BD @ TEXTS.T).numpy(), SCALE * (given.audio_BD @ NAMES.T).numpy()
    expected = BY_HAND[name](logits, names, SPECIES.numpy())
    assert float(OBJECTIVES[name](given)) == pytest.approx(expected)


def test_preserve_is_the_mean_cosine_distance() -> None:
    pooled, base = (INPUTS @ WEIGHT.T).numpy(), BASE.numpy()
    cosines = [p @ b / math.sqrt((p @ p) * (b @ b)) for p, b in zip(pooled, base, strict=True)]
    found = objectives.preserve(torch.from_numpy(pooled), BASE)
    assert float(found) == pytest.approx(1 - np.mean(cosines))
    torch.testing.assert_close(objectives.preserve(3 * INPUTS @ WEIGHT.T, BASE), found)
    assert float(objectives.preserve(5 * BASE, BASE)) == pytest.approx(0)
    assert float(objectives.preserve(-BASE, BASE)) == pytest.approx(2)


@pytest.mark.parametrize("name", ["masked", "multi-positive"])
def test_a_species_alone_leaves_infonce(name: str) -> None:
    loss = OBJECTIVES[name]
    torch.testing.assert_close(loss(batch(ALONE)), objectives.infonce(batch(ALONE)))
    assert not torch.isclose(loss(batch()), objectives.infonce(batch()))


def test_masked_has_fewer_negatives_than_infonce() -> None:
    assert objectives.masked(batch()) < objectives.infonce(batch())


def test_multi_positive_is_bounded_by_the_entropy_of_its_target() -> None:
    ideal = torch.eye(5, dtype=torch.float64)[SPECIES]
    found = objectives.multi_positive(replace(batch(), audio_BD=ideal, text_BD=ideal, scale=torch.tensor(100.0)))
    per_species = SPECIES.bincount().double()
    torch.testing.assert_close(found, per_species[SPECIES].log().mean())


def test_bank_looks_at_each_recording_alone() -> None:
    whole = batch()
    alone = [
        objectives.bank(replace(whole, audio_BD=whole.audio_BD[i : i + 1], species_B=SPECIES[i : i + 1]))
        for i in range(8)
    ]
    torch.testing.assert_close(objectives.bank(whole), torch.stack(alone).mean())
    assert objectives.bank(replace(whole, text_BD=-TEXTS)) == objectives.bank(whole)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "siglip"])
def test_only_siglip_needs_a_bias(name: str) -> None:
    assert OBJECTIVES[name](replace(batch(), bias=torch.tensor(0.0))) == OBJECTIVES[name](batch())


def test_siglip_starts_near_the_cost_of_its_positives() -> None:
    """The paper's start: a negative of cosine 0 costs next to nothing, a positive about −bias."""
    orthogonal = torch.eye(8, dtype=torch.float64)
    start = Batch(
        orthogonal,
        orthogonal.roll(1, 0),
        ALONE,
        torch.tensor(INITIAL_LOG_SCALE).exp(),
        torch.tensor(INITIAL_BIAS),
        NAMES,
    )
    # Each row: its positive at cosine 0, one negative at cosine 1 (logit 10 − 10 = 0), six negatives at cosine 0.
    expected = math.log1p(math.exp(10)) + math.log(2) + 6 * math.log1p(math.exp(-10))
    assert float(objectives.siglip(start)) == pytest.approx(expected)


def test_alignment() -> None:
    assert float(objectives.alignment(TEXTS, TEXTS)) == pytest.approx(0)
    assert float(objectives.alignment(TEXTS, -TEXTS)) == pytest.approx(2)


LOSSES = [*OBJECTIVES, "preserve"]
ROWS = 7  # three on one rank and four on the other


class Learner(torch.nn.Linear):
    """The tower, and of the loss's own parameters those that the loss has: DDP waits for all of them."""

    def __init__(self, name: str) -> None:
        super().__init__(6, 5, bias=False, dtype=torch.float64)
        self.weight.data.copy_(WEIGHT)
        own = {"log_scale": math.log(SCALE)} if name in OBJECTIVES else {}
        own |= {"logit_bias": BIAS} if name == "siglip" else {}
        for key, value in own.items():
            self.register_parameter(key, torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def loss(self, name: str, pooled_bP: torch.Tensor, mine: slice) -> torch.Tensor:
        """The loss of the global batch, of this rank's rows of it."""
        pooled_BP = objectives.global_batch(pooled_bP, ROWS)
        if name == "preserve":
            return objectives.preserve(pooled_BP, objectives.global_batch(BASE[mine], ROWS))
        audio_BD = objectives.global_batch(F.normalize(pooled_bP, dim=-1), ROWS)
        text_BD = objectives.global_batch(TEXTS[mine], ROWS)
        species_B = objectives.global_batch(SPECIES[mine], ROWS)
        bias = self.logit_bias if name == "siglip" else torch.tensor(BIAS)
        given = Batch(audio_BD, text_BD, species_B, self.log_scale.exp(), bias, NAMES)
        return OBJECTIVES[name](given) + 0.5 * objectives.alignment(audio_BD, text_BD)

    def gradients(self) -> dict[str, torch.Tensor]:
        return {key: parameter.grad for key, parameter in self.named_parameters()}


def rank_gradients(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = split.share(ROWS, rank, 2)
    found = {}
    for name in LOSSES:
        learner = Learner(name)
        wrapped = torch.nn.parallel.DistributedDataParallel(learner)
        loss = learner.loss(name, wrapped(INPUTS[mine]), mine)
        loss.backward()
        found[name] = (loss.detach(), learner.gradients())
    torch.save(found, f"{out}{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Loss and gradients by the loss's name, of each of two processes that share the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out: Path = tmp_path_factory.mktemp("gradients") / "rank"
    multiprocessing.spawn(rank_gradients, (port, str(out)), nprocs=2)
    return [torch.load(f"{out}{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_have_the_gradient_of_one_process(name: str, rank: int, of_two_ranks: list[dict]) -> None:
    learner = Learner(name)
    expected = learner.loss(name, learner(INPUTS[:ROWS]), slice(ROWS))
    expected.backward()
    loss, gradients = of_two_ranks[rank][name]
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients, learner.gradients())
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients.values())
