"""The global batch on every rank, with the gradient of a single process."""

from __future__ import annotations

import torch
from torch import distributed as dist

from distill.data.split import share_size


def global_batch(local_bD: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Brings all ranks' rows together, in rank order; differentiable in this rank's own rows.

    Every rank computes the whole loss L of the global batch. Its gradient through the rank's own rows z_r is exactly
    ∂L/∂z_r; the others' rows are constants here and variables there. DDP then *averages* parameter gradients over W
    ranks where the chain rule asks for their sum Σ_r ∂L/∂z_r · ∂z_r/∂θ, so the rows' gradient is multiplied by W.
    Parameters of the loss itself (the temperature) have the full gradient on every rank, and averaging is right.
    Memory: W·b·D floats and B² logits a rank; no gradient crosses the network but DDP's own.

    Args:
        local_bD: [rows of this rank, width] or [rows of this rank], as `split.share` gives them.
        batch_size: rows of all ranks.

    Returns:
        [rows of all ranks, …]; `local_bD` itself outside a process group or alone in it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local_bD
    world = dist.get_world_size()
    largest = -(-batch_size // world)
    padded = local_bD.new_zeros(largest, *local_bD.shape[1:])
    padded[: len(local_bD)] = local_bD.detach()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    sizes = [share_size(batch_size, rank, world) for rank in range(world)]
    parts = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    if local_bD.requires_grad:
        own = local_bD.clone()
        own.register_hook(lambda gradient: gradient * world)
        parts[dist.get_rank()] = own
    return torch.cat(parts)
