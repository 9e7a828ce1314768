"""How well one set of vectors finds another.

A query asks a gallery for what has its label (species, or genus, or family). Scores that are equal share the worse
place, so that the gallery's order decides nothing and a model that says the same of all earns nothing.

`retrieve` never holds the matrix of all scores: it goes through the queries in blocks, on the GPU if there is one.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from songsight.metrics.vectors import numbered

RECALL_LEVELS = np.linspace(0, 1, 101)
_BLOCK_BYTES = {"cpu": 24 << 20, "cuda": 256 << 20}  # of scores at a time
_THREADS = 4  # each has a block
_FEW_ANSWERS = 256


def average_precision(scores_QN: np.ndarray, relevant_QN: np.ndarray) -> np.ndarray:
    """Average precision of each query: AP = Σ_k P(k)·rel(k) / Σ_k rel(k) over the ranking by falling score.

    Manning, Raghavan, Schütze: Introduction to Information Retrieval, section 8.4. Equal scores share the precision
    behind the last of them, as in scikit-learn: the gallery's order decides nothing.

    Args:
        scores_QN: float [queries, gallery].
        relevant_QN: bool [queries, gallery].

    Returns:
        float64 [queries]; NaN for a query that has no answer in the gallery.
    """
    order_QN = np.argsort(-scores_QN, axis=1, kind="stable")
    ranked_QN = np.take_along_axis(relevant_QN, order_QN, axis=1)
    score_QN = np.take_along_axis(scores_QN, order_QN, axis=1)
    size = ranked_QN.shape[1]
    precision_QN = np.cumsum(ranked_QN, axis=1) / np.arange(1, size + 1)
    # Each place's last equal place: the nearest one at or behind it whose follower has another score.
    last_QN = np.full(score_QN.shape, size - 1)
    last_QN[:, :-1] = np.where(score_QN[:, :-1] != score_QN[:, 1:], np.arange(size - 1), size - 1)
    last_QN = np.minimum.accumulate(last_QN[:, ::-1], axis=1)[:, ::-1]
    total_Q = ranked_QN.sum(axis=1)
    hits_Q = (np.take_along_axis(precision_QN, last_QN, axis=1) * ranked_QN).sum(axis=1)
    return np.divide(hits_Q, total_Q, out=np.full(len(total_Q), np.nan), where=total_Q > 0)


@dataclass(frozen=True)
class Ranked:
    """How well each query did.

    Attributes:
        average_precision: see `average_precision`; float64 [queries], NaN where the gallery has no answer.
        first_rank: the place of the first answer, 1 for the best: 1 + the other items that score no less; float64
            [queries], NaN likewise. R@k, the share of queries with an answer among the k nearest (arXiv 1707.05612,
            section 4), is the share of `first_rank <= k`.
        precision: interpolated precision, the best at this recall or a higher one, at each of `RECALL_LEVELS`, mean
            over the queries that have an answer (Manning, Raghavan, Schütze, section 8.4); float64 [levels].
        nearest: numbers of the gallery's most similar items, best first, int64 [queries, as many as were asked for].
    """

    average_precision: np.ndarray
    first_rank: np.ndarray
    precision: np.ndarray
    nearest: np.ndarray

    def found_within(self, k: int) -> np.ndarray:
        """Whether an answer is among the k nearest: float64 [queries] of 0 and 1, NaN where there is no answer."""
        return np.where(np.isnan(self.first_rank), np.nan, self.first_rank <= k)


def retrieve(
    queries_QD: np.ndarray,
    gallery_ND: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    nearest: int = 0,
    block: int | None = None,
    device: str | None = None,
) -> Ranked:
    """Ranks a gallery for each query by dot product, and says how well.

    Args:
        queries_QD, gallery_ND: unit vectors, float [queries, width] and [gallery, width].
        query_labels, gallery_labels: what has to agree, [queries] and [gallery].
        nearest: how many of the most similar items to name.
        block: queries at a time; as many as make a few dozen MB of scores if not given.
        device: `cuda` or `cpu`; CUDA where there is one if not given.

    Raises:
        ValueError: a vector holds NaN or infinity, or the widths differ.
    """
    queries_QD, gallery_ND = np.asarray(queries_QD), np.asarray(gallery_ND)
    if queries_QD.shape[1] != gallery_ND.shape[1]:
        raise ValueError(f"queries of width {queries_QD.shape[1]} cannot ask for vectors of {gallery_ND.shape[1]}")
    if not (np.isfinite(queries_QD).all() and np.isfinite(gallery_ND).all()):
        raise ValueError("vectors should be finite numbers: a NaN or infinity is among them")
    labels_Q, labels_N = numbered(query_labels, gallery_labels)
    # Items of a label side by side: a query's answers are then a slice.
    order_N = np.argsort(labels_N, kind="stable")
    first_Q = np.searchsorted(labels_N[order_N], labels_Q, "left")
    answers_Q = np.searchsorted(labels_N[order_N], labels_Q, "right") - first_Q
    nearest = min(nearest, len(order_N))
    device = device or _device()
    rank = _Ranking(gallery_ND[order_N], device)
    size = block or max(1, _BLOCK_BYTES[device] // (4 * max(1, len(order_N))))

    def one(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        part = slice(start, start + size)
        answers_B = answers_Q[part]
        place_P = np.arange(max(1, answers_B.max()))
        own_BP = np.minimum(first_Q[part, None] + place_P, len(order_N) - 1)
        hits_BP, at_least_BP, best_BK = rank(queries_QD[part], own_BP, place_P < answers_B[:, None], nearest)
        return *_measured(hits_BP, at_least_BP, answers_B), order_N[best_BK]

    starts = range(0, len(queries_QD), size)
    if not len(order_N):
        starts = range(0)
    with ThreadPoolExecutor(1 if device == "cuda" else min(_THREADS, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(one, starts))
    if not parts:
        none = np.full(len(queries_QD), np.nan)
        empty = np.zeros((len(queries_QD), nearest), np.int64)
        return Ranked(none, none.copy(), np.full(len(RECALL_LEVELS), np.nan), empty)
    precision_QR = np.concatenate([part[2] for part in parts])
    answered = answers_Q > 0
    return Ranked(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        precision_QR[answered].mean(axis=0) if answered.any() else np.full(len(RECALL_LEVELS), np.nan),
        np.concatenate([part[3] for part in parts]),
    )


def _device() -> str:
    import torch  # so that the measures of few things need no torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _Ranking:
    """A gallery on its device: ranks it for a block of queries.

    Only the answers' places are wanted, for which nothing has to carry the indices of all items along.
    """

    def __init__(self, gallery_ND: np.ndarray, device: str) -> None:
        self.device = device
        self.gallery_ND: Any = gallery_ND
        if device == "cuda":
            import torch

            self.gallery_ND = torch.from_numpy(np.ascontiguousarray(gallery_ND)).to(device)

    def __call__(
        self, queries_BD: np.ndarray, own_BP: np.ndarray, real_BP: np.ndarray, nearest: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the answers stand.

        Args:
            queries_BD: a block of queries.
            own_BP: numbers of their answers; what fills up a row is not in `real_BP`.
            real_BP: which are answers.
            nearest: how many of the most similar items to name.

        Returns:
            Answers by falling score: (int64 [b, p] how many answers score no less; int64 [b, p] how many items do;
            int64 [b, nearest] the most similar items).
        """
        return (self._by_torch if self.device == "cuda" else self._by_numpy)(queries_BD, own_BP, real_BP, nearest)

    def _by_numpy(self, queries_BD: np.ndarray, own_BP: np.ndarray, real_BP: np.ndarray, nearest: int) -> Any:
        scores_BN = queries_BD @ self.gallery_ND.T
        best_BK = _most_similar(scores_BN, nearest)
        rising_BP = np.sort(np.where(real_BP, np.take_along_axis(scores_BN, own_BP, axis=1), -np.inf), axis=1)
        # Few answers are compared with all scores one by one, in a fraction of the time that sorting them takes.
        sort = own_BP.shape[1] > _FEW_ANSWERS
        if sort:
            scores_BN.sort(axis=1)
        hits_BP, at_least_BP = np.empty(own_BP.shape, np.int64), np.empty(own_BP.shape, np.int64)
        for i, (rising_P, scores_N) in enumerate(zip(rising_BP, scores_BN, strict=True)):
            falling_P = rising_P[::-1]
            hits_BP[i] = len(rising_P) - np.searchsorted(rising_P, falling_P)
            if sort:
                at_least_BP[i] = len(scores_N) - np.searchsorted(scores_N, falling_P)
            else:
                at_least_BP[i] = [np.count_nonzero(scores_N >= score) for score in falling_P]
        return hits_BP, at_least_BP, best_BK

    def _by_torch(self, queries_BD: np.ndarray, own_BP: np.ndarray, real_BP: np.ndarray, nearest: int) -> Any:
        import torch

        def here(array: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.gallery_ND.device)

        scores_BN = here(queries_BD) @ self.gallery_ND.T
        best_BK = scores_BN.topk(nearest, dim=1).indices
        own = scores_BN.gather(1, here(own_BP)).masked_fill(~here(real_BP), -torch.inf)
        rising_BP = own.sort(dim=1).values
        rising_BN = scores_BN.sort(dim=1).values
        falling_BP = rising_BP.flip(1).contiguous()
        hits_BP = rising_BP.shape[1] - torch.searchsorted(rising_BP, falling_BP)
        at_least_BP = rising_BN.shape[1] - torch.searchsorted(rising_BN, falling_BP)
        return hits_BP.cpu().numpy(), at_least_BP.cpu().numpy(), best_BK.cpu().numpy()


def _most_similar(scores_BN: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the highest scores of each row, highest first: int64 [b, count]."""
    if not count:
        return np.zeros((len(scores_BN), 0), np.int64)
    some_BK = np.argpartition(scores_BN, -count, axis=1)[:, -count:]
    order_BK = np.argsort(-np.take_along_axis(scores_BN, some_BK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some_BK, order_BK, axis=1)


def _measured(
    hits_BP: np.ndarray, at_least_BP: np.ndarray, answers_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(average precision [b], first rank [b], interpolated precision [b, levels]) of answers by falling score."""
    real_BP = np.arange(hits_BP.shape[1]) < answers_B[:, None]
    none_B = answers_B == 0
    precision_BP = np.where(real_BP, hits_BP / at_least_BP, 0)
    # A running sum adds in one order, however many columns fill a block up: blocks of any size agree to the last bit.
    average_B = np.where(none_B, np.nan, precision_BP.cumsum(axis=1)[:, -1] / np.maximum(answers_B, 1))
    first_B = np.where(none_B, np.nan, 1 + at_least_BP[:, 0] - hits_BP[:, 0])
    best_BP = np.maximum.accumulate(precision_BP[:, ::-1], axis=1)[:, ::-1]
    # The first answer that brings recall to a level; rounded, or 0.07 · 100 would ask for the eighth.
    place_BR = np.ceil(np.round(RECALL_LEVELS * answers_B[:, None], 9)).astype(np.int64) - 1
    return average_B, first_B, np.take_along_axis(best_BP, np.maximum(place_BR, 0), axis=1)


def retrieval_map(
    queries_QD: np.ndarray, gallery_ND: np.ndarray, query_species: np.ndarray, gallery_species: np.ndarray
) -> float:
    """Mean average precision of finding a query's species in a gallery, over queries whose species is in it.

    mAP = Σ_q AP(q) / Q (Manning, Raghavan, Schütze, section 8.4), AP of `average_precision`; NaN where Q is 0.

    Args:
        queries_QD, gallery_ND: unit vectors, float [queries, width] and [gallery, width].
        query_species, gallery_species: labels, [queries] and [gallery].
    """
    precision = retrieve(queries_QD, gallery_ND, query_species, gallery_species).average_precision
    return float(np.nanmean(precision)) if np.isfinite(precision).any() else float("nan")


def chance_average_precision(relevant: int | np.ndarray, size: int) -> Any:
    """What average precision comes to when the ranking is drawn at random, all orders alike.

    E[AP] = (P−1)/(N−1) + (N−P)/(N−1) · H_N/N, with P answers among N items and H_N = Σ_{k≤N} 1/k: an answer stands at
    place k with P/N, and then (k−1)(P−1)/(N−1) of those before it are answers (Bestgen 2015, Exact expected average
    precision of the random baseline for system evaluation, Prague Bulletin of Mathematical Linguistics 103).

    Args:
        relevant: P, at least 1; a number or int [queries].
        size: N.
    """
    if size == 1:
        return np.ones_like(relevant, dtype=np.float64)[()]
    harmonic = (1 / np.arange(1, size + 1)).sum()
    return (np.asarray(relevant) - 1) / (size - 1) + (size - np.asarray(relevant)) / (size - 1) * harmonic / size
