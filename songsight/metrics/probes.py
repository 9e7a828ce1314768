"""What an embedding keeps apart: kNN and a linear probe on frozen vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from songsight.metrics.vectors import unit

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
    """Accuracy #{q: ŷ(q) = y(q)} / Q of `knn_right`; NaN without training vectors."""
    right_Q = knn_right(train_ND, test_QD, train_species, test_species, k)
    return float(right_Q.mean()) if len(right_Q) else float("nan")


def linear_probe(
    train_ND: np.ndarray, test_QD: np.ndarray, train_species: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Species named by the logistic regression of `fit`; accuracy is the share that is named right.

    Args:
        train_ND, strength: see `fit`.
        test_QD: float [queries, width].
        train_species: labels, [n].

    Returns:
        the species named, [queries], of the type of `train_species`.
    """
    labels, train_labels = np.unique(np.asarray(train_species).astype(str), return_inverse=True)
    named_Q = fit(train_ND, train_labels, len(labels), strength)(test_QD).argmax(axis=1)
    return labels[named_Q].astype(np.asarray(train_species).dtype)


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        mean_D, spread_D: of the training vectors, float [width].
        weight_DC, bias_C: float32 [width, classes] and [classes].
    """

    mean_D: np.ndarray
    spread_D: np.ndarray
    weight_DC: np.ndarray
    bias_C: np.ndarray

    def __call__(self, vectors_QD: np.ndarray) -> np.ndarray:
        """Logits: float [queries, width] → float32 [queries, classes]."""
        scaled_QD = ((vectors_QD - self.mean_D) / self.spread_D).astype(np.float32)
        return scaled_QD @ self.weight_DC + self.bias_C


def fit(train_ND: np.ndarray, labels_N: np.ndarray, classes: int, strength: float = 1.0) -> Probe:
    """Logistic regression on frozen vectors, after each width is scaled to variance 1.

    min over (W, b) of Σ_i loss(x_i W + b, y_i) + ‖W‖² / (2·strength) by L-BFGS with the strong Wolfe conditions. With
    one label a vector the loss is −log softmax(x_i W + b)[y_i]: the linear probe of arXiv 2103.00020 (CLIP), section
    3.2, and scikit-learn's `LogisticRegression(C)`. With any number it is the sum over classes of the sigmoid's cross-
    entropy: one-vs-rest, as scikit-learn's `OneVsRestClassifier(LogisticRegression(C))`.

    Args:
        train_ND: float [n, width].
        labels_N: the number of each one's class, int [n]; or, of several labels, bool [n, classes].
        classes: how many there are.
        strength: C, the inverse of the penalty on W.
    """
    import torch

    mean_D, spread_D = train_ND.mean(axis=0), train_ND.std(axis=0)
    spread_D = np.where(spread_D > 0, spread_D, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_ND = torch.tensor((train_ND - mean_D) / spread_D, dtype=torch.float32).to(device)
    several = labels_N.ndim == 2
    y = torch.tensor(labels_N, dtype=torch.float32 if several else torch.int64).to(device)
    weight_DC = torch.zeros(x_ND.shape[1], classes, device=device, requires_grad=True)
    bias_C = torch.zeros(classes, device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_DC, bias_C], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        out_NC = x_ND @ weight_DC + bias_C
        if several:
            fit = torch.nn.functional.binary_cross_entropy_with_logits(out_NC, y, reduction="sum")
        else:
            fit = torch.nn.functional.cross_entropy(out_NC, y, reduction="sum")
        total = (fit + weight_DC.square().sum() / (2 * strength)) / len(x_ND)
        total.backward()
        return total

    solver.step(loss)
    return Probe(mean_D, spread_D, weight_DC.detach().cpu().numpy(), bias_C.detach().cpu().numpy())
