"""A linear probe that gives scores, for units with one label or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STRENGTHS = (0.01, 0.1, 1.0, 10.0)


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

    min over (W, b) of Σ_i loss(x_i W + b, y_i) + ‖W‖² / (2·strength) by L-BFGS with the strong Wolfe conditions; the
    loss is the softmax's cross-entropy for one label (arXiv 2103.00020, section 3.2), the sum over classes of the
    sigmoid's for several: one-vs-rest, as scikit-learn's `OneVsRestClassifier(LogisticRegression(C))`.

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


def chosen(
    train_ND: np.ndarray,
    labels_N: np.ndarray,
    classes: int,
    val_VD: np.ndarray,
    how_good: Callable[[np.ndarray], float],
) -> Probe:
    """The probe whose penalty among `STRENGTHS` does best on a validation set; that of 1 where there is none.

    Args:
        train_ND, labels_N, classes: see `fit`.
        val_VD: the validation set, float [n, width].
        how_good: of its logits, higher is better. Of equally good ones the strongest penalty is taken.
    """
    if not len(val_VD):
        return fit(train_ND, labels_N, classes)
    probes = [fit(train_ND, labels_N, classes, strength) for strength in STRENGTHS]
    good = [how_good(one(val_VD)) for one in probes]
    return probes[int(np.nanargmax(good)) if np.isfinite(good).any() else STRENGTHS.index(1.0)]
