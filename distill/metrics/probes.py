"""What an embedding keeps apart: kNN and a linear probe on frozen vectors."""

from __future__ import annotations

import numpy as np

from distill.metrics.vectors import unit

_BLOCK_BYTES = 64 << 20


def knn_right(
    train_ND: np.ndarray,
    test_QD: np.ndarray,
    train_species: np.ndarray,
    test_species: np.ndarray,
    k: int = 5,
    train_recordists: np.ndarray | None = None,
    test_recordists: np.ndarray | None = None,
) -> np.ndarray:
    """Whether a vector is named right by the majority of its k nearest training vectors by cosine.

    ŷ(x) = argmax_c #{i in N_k(x): y_i = c}, N_k(x) the k training vectors with the largest cosine to x (Cover & Hart
    1967, IEEE Transactions on Information Theory 13:21–27; on frozen embeddings by cosine: arXiv 1805.01978, section
    3.4, here with equal weights). Accuracy is the mean of [ŷ(x) = y].

    Equal votes go to the species with the larger summed similarity. With recordists a vector has no neighbours by its
    own recordist, whose microphone and place it would be known by (leave one recordist out); what has no recordist
    (None or empty) shares it with nothing.

    Args:
        train_ND, test_QD: float [n, width]; made unit length here.
        train_species, test_species: labels, [n] and [queries].
        k: neighbours; fewer where there are fewer.
        train_recordists, test_recordists: who recorded it, [n] and [queries]; both or neither.

    Returns:
        float64 [queries] of 0 and 1; NaN for one that has no neighbour.
    """
    species = np.asarray(train_species)
    labels, train_labels = np.unique(species.astype(str), return_inverse=True)
    train_UD, test_UD = unit(train_ND), unit(test_QD)
    right_Q = np.full(len(test_UD), np.nan)
    size = max(1, _BLOCK_BYTES // (8 * max(1, len(train_UD), len(labels))))
    for start in range(0, len(test_UD) if len(train_UD) else 0, size):
        part = slice(start, start + size)
        similarity_BN = test_UD[part] @ train_UD.T
        if train_recordists is not None and test_recordists is not None:
            own_B, own_N = np.asarray(test_recordists, object)[part], np.asarray(train_recordists, object)
            known_B = np.array([bool(name) for name in own_B])
            similarity_BN[(own_B[:, None] == own_N[None, :]) & known_B[:, None]] = -np.inf
        nearest_BK = np.argsort(-similarity_BN, axis=1, kind="stable")[:, : min(k, len(train_UD))]
        near_BK = np.take_along_axis(similarity_BN, nearest_BK, axis=1)
        # A vote counts 1; the similarity, at most 1, only parts equal counts.
        weight_BK = np.where(np.isfinite(near_BK), 1 + 1e-3 * near_BK, 0)
        votes_BS = np.zeros((len(near_BK), len(labels)))
        np.add.at(votes_BS, (np.arange(len(near_BK))[:, None], train_labels[nearest_BK]), weight_BK)
        best_B = labels[votes_BS.argmax(axis=1)]
        named_B = best_B == np.asarray(test_species)[part].astype(str)
        right_Q[part] = np.where(votes_BS.max(axis=1) > 0, named_B, np.nan)
    return right_Q


def knn_accuracy(
    train_ND: np.ndarray, test_QD: np.ndarray, train_species: np.ndarray, test_species: np.ndarray, k: int = 5
) -> float:
    """Accuracy of `knn_right`; NaN without training vectors."""
    right_Q = knn_right(train_ND, test_QD, train_species, test_species, k)
    return float(right_Q.mean()) if len(right_Q) else float("nan")


def linear_probe(
    train_ND: np.ndarray, test_QD: np.ndarray, train_species: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Species named by a logistic regression on frozen vectors, after each width is scaled to variance 1.

    min over (W, b) of Σ_i −log softmax(x_i W + b)[y_i] + ‖W‖² / (2·strength), by L-BFGS with the strong Wolfe
    conditions: the linear probe of arXiv 2103.00020 (CLIP), section 3.2, and scikit-learn's `LogisticRegression(C)`.

    Args:
        train_ND, test_QD: float [n, width] and [queries, width].
        train_species: labels, [n].
        strength: C, the inverse of the penalty on W.

    Returns:
        the species named, [queries], of the type of `train_species`.
    """
    import torch

    labels, train_labels = np.unique(np.asarray(train_species).astype(str), return_inverse=True)
    mean_D, spread_D = train_ND.mean(axis=0), train_ND.std(axis=0)
    spread_D = np.where(spread_D > 0, spread_D, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_ND, x_QD = (torch.tensor((some - mean_D) / spread_D, dtype=torch.float32) for some in (train_ND, test_QD))
    x_ND, y_N = x_ND.to(device), torch.from_numpy(train_labels).to(device)
    weight_DS = torch.zeros(x_ND.shape[1], len(labels), device=device, requires_grad=True)
    bias_S = torch.zeros(len(labels), device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_DS, bias_S], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fit = torch.nn.functional.cross_entropy(x_ND @ weight_DS + bias_S, y_N, reduction="sum")
        total = (fit + weight_DS.square().sum() / (2 * strength)) / len(x_ND)
        total.backward()
        return total

    solver.step(loss)
    with torch.inference_mode():
        named_Q = (x_QD.to(device) @ weight_DS + bias_S).argmax(dim=1).cpu().numpy()
    return labels[named_Q].astype(np.asarray(train_species).dtype)
