"""What each Ray Train worker runs."""

from __future__ import annotations

import os

import torch

from distill.data import text_bank
from distill.train.loop import Training, Worker, WorkerData
from distill.train.recipe import Outcome
from distill.train.work import WorkerInput


def train_worker(sent: WorkerInput) -> Outcome:
    """Trains as one worker of a run, as far as the run has come."""
    import ray
    from ray import train
    from ray.train.torch import get_device, prepare_model

    context = train.get_context()
    device = get_device()
    if device.type == "cpu":
        # Ray gives a worker as many threads as it reserves CPUs; decoding leaves most of the other cores idle.
        threads = sent.recipe.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        torch.set_num_threads(threads)
    loaded = (None if ref is None else ray.get(ref) for ref in (sent.names, sent.noise))
    names, noise = (None if one is None else torch.tensor(one, device=device) for one in loaded)
    data = WorkerData(
        ray.get(sent.rows),
        sent.rows,
        text_bank.read(sent.bank_url),
        None if sent.held_out is None else ray.get(sent.held_out),
        torch.empty(0, device=device) if names is None else names,
        noise,
    )
    return Training(
        sent.recipe,
        data,
        sent.tracking,
        Worker(context.get_world_rank(), context.get_world_size(), device),
        # The only buffers that could differ between ranks are those of the batch norm, which stay as they are.
        lambda learner: prepare_model(learner, parallel_strategy_kwargs={"broadcast_buffers": False}),
        sent.rows_to,
    ).run()
