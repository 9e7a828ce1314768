from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from distill import draws, htsat
from distill.side_by_side import SideBySide

TOWER = {
    "spec_size": 64,
    "num_mel_bins": 64,
    "patch_embeds_hidden_size": 16,
    "depths": (1, 2),
    "num_attention_heads": (2, 2),
    "window_size": 4,
    "drop_path_rate": 0.2,
    "attention_probs_dropout_prob": 0.1,
}


class Two(nn.Module):
    """Two outputs of a tower, and where their threads were."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = htsat.Tower(htsat.TowerConfig(**TOWER))  # type: ignore[arg-type]
        self.head = nn.Linear(self.tower.config.pooled_width, 3)
        self.seen: list[tuple[int, int, bool]] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append((len(x), torch.get_num_threads(), torch.is_grad_enabled()))
        pooled = self.tower(x)
        return self.head(pooled).float(), pooled


@pytest.fixture(params=[2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def clips(number: int) -> torch.Tensor:
    return torch.randn(number, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def gradients(run: Two | SideBySide, of: Two, x: torch.Tensor, weights: tuple[float, float]) -> dict[str, torch.Tensor]:
    of.zero_grad(set_to_none=True)
    vectors, pooled = run(x)
    loss = vectors.square().sum() * weights[0]
    if weights[1]:
        loss = loss + pooled.square().sum() * weights[1]
    loss.backward()
    return {name: weight.grad for name, weight in of.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.5)])
def test_gradients_are_those_of_the_whole_batch(threads: int, weights: tuple[float, float]) -> None:
    module = Two().eval()
    x = clips(6)
    expected = gradients(module, module, x, weights)
    module.seen.clear()
    found = gradients(SideBySide(module), module, x, weights)
    assert module.seen == [(3, threads // 2, True)] * 2
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-7, rtol=1e-3)
    assert torch.get_num_threads() == threads


def test_what_is_frozen_stays_without_a_gradient(threads: int) -> None:
    module = Two().eval()
    module.tower.requires_grad_(False)
    found = gradients(SideBySide(module), module, clips(4), (1.0, 0.5))
    assert found.keys() == {"head.weight", "head.bias"}


def test_steps_are_the_same_to_the_bit_whichever_half_is_first(threads: int) -> None:
    module = Two().train()
    module.tower.batch_norm.eval()
    run = SideBySide(module)

    def step(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            return gradients(run, module, clips(8), (1.0, 0.5))

    first, other = step(5), step(6)
    for _ in range(10):
        again = step(5)
        assert all(torch.equal(again[name], gradient) for name, gradient in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_halves_draw_differently(threads: int) -> None:
    module = Two().train()
    module.tower.batch_norm.eval()
    torch.manual_seed(0)
    vectors, _ = SideBySide(module)(clips(1).repeat(2, 1, 1, 1))
    assert not torch.equal(vectors[0], vectors[1])
    assert draws.generator() is None


def test_a_pass_with_a_graph_draws_what_one_without_drew(threads: int) -> None:
    """As a step in parts needs it, which goes through each part twice."""
    module = Two().train()
    module.tower.batch_norm.eval()
    run = SideBySide(module)
    torch.manual_seed(0)
    with torch.no_grad():
        first, _ = run(clips(4))
    torch.manual_seed(0)
    again, _ = run(clips(4))
    assert again.requires_grad
    assert torch.equal(first, again)
    assert not torch.equal(first, run(clips(4))[0])


def test_autocast_and_no_grad_reach_the_lanes(threads: int) -> None:
    module = Two().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        vectors, pooled = SideBySide(module)(clips(4))
    assert [grad for _, _, grad in module.seen] == [False, False]
    assert not vectors.requires_grad
    assert pooled.dtype == torch.bfloat16


@pytest.mark.parametrize(("number", "threads_set"), [(5, 2), (4, 1), (4, 3), (1, 2)])
def test_what_has_no_equal_halves_is_left_whole(number: int, threads_set: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads_set)
    module = Two().eval()
    try:
        SideBySide(module)(clips(number))
    finally:
        torch.set_num_threads(before)
    assert module.seen == [(number, threads_set, True)]


def test_an_error_in_a_lane_is_the_caller_s(threads: int) -> None:
    with pytest.raises(ValueError, match="features of shape"):
        SideBySide(Two())(torch.randn(4, 1, 64, 63))
