"""What a distilled student is compared with: other ways from a sound to a picture.

Each gives query vectors in the teacher's space for recordings, to be ranked against photographs like the student's
own. They are the baselines of arXiv 2602.00681, table 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from songsight.metrics import unit


def random_projection(pooled_QP: np.ndarray, width: int, seed: int) -> np.ndarray:
    """The base model's pooled audio embedding through a random matrix: float32 [queries, width], unit rows."""
    matrix = np.random.default_rng(seed).standard_normal((pooled_QP.shape[1], width), dtype=np.float32)
    return unit(pooled_QP @ matrix)


RIDGES = tuple(10.0**power for power in np.arange(-6, 1.5, 0.5))
"""Penalties λ that are tried."""


def choose_ridge(
    base_text_TB: np.ndarray, teacher_text_TD: np.ndarray, groups_T: np.ndarray, centred: bool = True
) -> float:
    """The λ among `RIDGES` of `text_mapping` that best tells a group's texts from those of all others.

    Σ_g ‖Y_g − Ŷ_g^(−g)‖², each group left out in turn, without fitting anew: with H the hat matrix of the whole fit and
    e its residuals, those of a group that was left out are (I − H_gg)⁻¹ e_g (PRESS: Allen 1974, Technometrics
    16:125–127; for groups Cook & Weisberg 1982, Residuals and Influence in Regression). A species' texts are a group:
    they are so alike that one left out alone would be told by the others.

    Args:
        base_text_TB, teacher_text_TD, centred: see `text_mapping`.
        groups_T: what is left out together, [texts].

    Returns:
        λ; that of two equally good ones which shrinks more, and 0.01 where there is only one group.
    """
    order = np.argsort(groups_T, kind="stable")
    _, sizes_G = np.unique(groups_T, return_counts=True)
    if len(sizes_G) < 2:
        return 1e-2
    x, y = np.asarray(base_text_TB, np.float64)[order], np.asarray(teacher_text_TD, np.float64)[order]
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
    u_TR, s_R, _ = np.linalg.svd(x, full_matrices=False)
    turned_RD = u_TR.T @ y
    starts_G = np.cumsum(sizes_G) - sizes_G
    errors = []
    for ridge in RIDGES:
        shrink_R = s_R**2 / (s_R**2 + ridge * len(x))
        residual_TD = y - u_TR @ (shrink_R[:, None] * turned_RD)
        error = 0.0
        for size in np.unique(sizes_G):
            rows_GK = starts_G[sizes_G == size, None] + np.arange(size)
            u_GKR = u_TR[rows_GK]
            hat_GKK = (u_GKR * shrink_R) @ u_GKR.transpose(0, 2, 1) + (1 / len(x) if centred else 0)
            error += float((np.linalg.solve(np.eye(size) - hat_GKK, residual_TD[rows_GK]) ** 2).sum())
        errors.append(error)
    return RIDGES[len(errors) - 1 - int(np.argmin(errors[::-1]))]


def text_mapping(
    audio_QB: np.ndarray,
    base_text_TB: np.ndarray,
    teacher_text_TD: np.ndarray,
    ridge: float = 1e-2,
    kind: Literal["ridge", "orthogonal"] = "ridge",
    centred: bool = True,
    audio_mean_B: np.ndarray | None = None,
) -> np.ndarray:
    """A linear map between the two models' text spaces, applied to sounds.

    With X the base model's embeddings of texts and Y the teacher's of the same texts: `ridge` is
    W = argmin ‖XW − Y‖² + λ·n·‖W‖² (Hoerl & Kennard 1970); `orthogonal` is W = UVᵀ of the singular value decomposition
    XᵀY = USVᵀ, the best map that turns and does not stretch (Schönemann 1966, orthogonal Procrustes; where the widths
    differ, the nearest to one). `centred` takes the mean from X, Y and the sounds and gives the result the mean of Y.

    Args:
        audio_QB: the base model's audio embeddings in its joint space, float [queries, base width].
        base_text_TB, teacher_text_TD: unit vectors of the same texts.
        ridge: λ, see `choose_ridge`.
        kind: of the map.
        centred: whether the spaces' means are taken away first: sounds and texts lie apart in a joint space.
        audio_mean_B: mean of sounds that are no queries, where there are such; else the queries' own.

    Returns:
        float32 [queries, width], unit rows.
    """
    x, y, queries = (np.asarray(some, np.float64) for some in (base_text_TB, teacher_text_TD, audio_QB))
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
        queries = queries - (queries.mean(0) if audio_mean_B is None else audio_mean_B)
    if kind == "orthogonal":
        u, _, v = np.linalg.svd(x.T @ y, full_matrices=False)
        matrix = u @ v
    else:
        gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1], dtype=x.dtype)
        matrix = np.linalg.solve(gram, x.T @ y)
    offset = teacher_text_TD.mean(0) if centred else 0
    return unit(queries @ matrix + offset).astype(np.float32)


def zero_shot_chain(audio_QB: np.ndarray, base_names_SB: np.ndarray, teacher_names_SD: np.ndarray) -> np.ndarray:
    """The base model names the species; the teacher's text of that name is the query.

    Args:
        audio_QB: the base model's audio embeddings in its joint space.
        base_names_SB, teacher_names_SD: the two models' embeddings of the same species.

    Returns:
        float32 [queries, width]: the row of the most similar species.
    """
    names_SB = unit(base_names_SB)
    blocks = range(0, len(audio_QB), 4096)  # all sounds by all species may not fit into the memory
    named = [(unit(audio_QB[start : start + 4096]) @ names_SB.T).argmax(axis=1) for start in blocks]
    return teacher_names_SD[np.concatenate(named) if named else np.zeros(0, np.int64)]


def frozen_head(
    train_pooled_NP: np.ndarray,
    train_text_ND: np.ndarray,
    query_pooled_QP: np.ndarray,
    seed: int,
    steps: int = 1000,
    batch_size: int = 256,
    lr: float = 1e-3,
) -> np.ndarray:
    """A linear head trained like the student's, on an encoder that does not learn.

    Args:
        train_pooled_NP: the base model's pooled embeddings of the training recordings.
        train_text_ND: the teacher's embedding of each one's text, unit rows.
        query_pooled_QP: pooled embeddings of the queries.
        seed: of the head and the batches.
        steps, batch_size, lr: of AdamW on the paper's loss.

    Returns:
        float32 [queries, width], unit rows.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, spread = train_pooled_NP.mean(0), train_pooled_NP.std(0) + 1e-6
    x_NP = torch.from_numpy((train_pooled_NP - mean) / spread).float()
    y_ND = torch.from_numpy(np.ascontiguousarray(train_text_ND)).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(x_NP.shape[1], y_ND.shape[1])
    log_scale = torch.nn.Parameter(torch.tensor(1 / 0.07).log())
    optimizer = torch.optim.AdamW([*head.parameters(), log_scale], lr=lr)
    batch_size = min(batch_size, len(x_NP))
    for _ in range(steps):
        rows = torch.randperm(len(x_NP), generator=generator)[:batch_size]
        scale = log_scale.clamp(max=4.6052).exp()
        audio_BD = F.normalize(head(x_NP[rows]), dim=-1)
        logits_BB = scale * audio_BD @ y_ND[rows].T
        own_B = torch.arange(len(rows))
        loss = (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        q_QP = torch.from_numpy((query_pooled_QP - mean) / spread).float()
        return F.normalize(head(q_QP), dim=-1).numpy()
