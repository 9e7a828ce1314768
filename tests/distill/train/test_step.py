from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing
from torch.nn import functional as F

from distill.data import split
from distill.objectives import OBJECTIVES
from distill.train.step import Learner, Stepper
from songsight.models import student

WIDTH = 48


def learner(clap: Path, objective: str) -> Learner:
    torch.manual_seed(0)
    made = Learner(student.from_base(str(clap), WIDTH), objective)
    made.requires_grad_(True).eval()  # without dropout: its draws are cut differently
    return made


def batch(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(rows, 1, 256, 64, generator=generator) * 15 - 30
    texts = F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1)
    return mel, texts, torch.tensor([0, 1, 0, 2, 3, 1, 4, 4])[:rows]


def gradients(clap: Path, objective: str, parts: int, preserve: float = 0.0) -> tuple[dict[str, torch.Tensor], float]:
    made = learner(clap, objective)
    names = F.normalize(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2)), dim=-1)
    stepper = Stepper(made, made, objective, 0.5, preserve, parts, names, autocast=False)
    if preserve:
        with torch.no_grad():  # else the tower is still where it shall stay, and the gradient nothing
            made.student.tower.norm.weight.mul_(torch.linspace(0.5, 1.5, len(made.student.tower.norm.weight)))
    measures = stepper(*batch(), batch_size=8, seed=3)
    if preserve:
        assert measures.preserved is not None
        assert measures.preserved < 0.999
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}, measures.loss


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_parts_have_the_gradient_of_the_whole_batch(clap: Path, objective: str) -> None:
    whole, loss = gradients(clap, objective, 1, preserve=0.7)
    parts, loss_of_parts = gradients(clap, objective, 3, preserve=0.7)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == parts.keys()
    assert "student.log_scale" in whole
    assert ("bias" in whole) == (objective == "siglip")
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-7, rtol=1e-3)


def rank_gradients(rank: int, port: int, clap: Path, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mel, texts, species = batch(7)  # four rows on one rank and three on the other, each in parts of one or two
    mine = split.share(7, rank, 2)
    found = {}
    for objective in ("infonce", "siglip"):
        made = learner(clap, objective)
        made.student.tower.batch_norm.requires_grad_(False)  # as in a training: DDP waits for all that has a gradient
        wrapped = torch.nn.parallel.DistributedDataParallel(made, broadcast_buffers=False)
        stepper = Stepper(made, wrapped, objective, 0.5, 0.0, 3, torch.empty(0), autocast=False)
        stepper(mel[mine], texts[mine], species[mine], batch_size=7, seed=3)
        found[objective] = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    torch.save(found, f"{out}{rank}")
    torch.distributed.destroy_process_group()


def test_parts_on_two_ranks_have_the_gradient_of_one_process(clap: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(rank_gradients, (port, clap, str(tmp_path / "rank")), nprocs=2)
    for objective in ("infonce", "siglip"):
        alone = learner(clap, objective)
        alone.student.tower.batch_norm.requires_grad_(False)
        mel, texts, species = batch(7)
        Stepper(alone, alone, objective, 0.5, 0.0, 1, torch.empty(0), autocast=False)(mel, texts, species, 7, 3)
        expected = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
        for rank in range(2):
            found = torch.load(f"{tmp_path / 'rank'}{rank}", weights_only=True)[objective]
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                atol = 1e-4 * float(gradient.abs().max()) + 1e-7
                torch.testing.assert_close(found[name], gradient, atol=atol, rtol=1e-3)


def test_dropout_is_drawn_by_the_seed(clap: Path) -> None:
    made = learner(clap, "infonce").train()
    made.student.tower.batch_norm.eval()
    stepper = Stepper(made, made, "infonce", 0.0, 0.0, 2, torch.empty(0), autocast=False)
    losses = [stepper(*batch(), batch_size=8, seed=seed).loss for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("batch_size", "world"), [(8, 1), (8, 3), (7, 4), (5, 5)])
def test_ranks_share_a_batch_without_gap_or_overlap(batch_size: int, world: int) -> None:
    rows = [row for rank in range(world) for row in range(batch_size)[split.share(batch_size, rank, world)]]
    assert rows == list(range(batch_size))
    sizes = [split.share_size(batch_size, rank, world) for rank in range(world)]
    assert sum(sizes) == batch_size
    assert max(sizes) - min(sizes) <= 1
