"""A linear probe that gives scores, for units with one label or several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def logits(
    train_ND: np.ndarray, present_NC: np.ndarray, test_QD: np.ndarray, several: bool, strength: float = 1.0
) -> np.ndarray:
    """Logistic regression on frozen vectors, after each width is scaled to variance 1.

    min over (W, b) of Σ_i loss(x_i W + b, y_i) + ‖W‖² / (2·strength) by L-BFGS with the strong Wolfe conditions; the
    loss is the softmax's cross-entropy for one label (arXiv 2103.00020, section 3.2), the sum over classes of the
    sigmoid's for several: one-vs-rest, as scikit-learn's `OneVsRestClassifier(LogisticRegression(C))`.

    Args:
        train_ND, test_QD: float [n, width] and [queries, width].
        present_NC: bool [n, classes].
        several: see above.
        strength: C, the inverse of the penalty on W.

    Returns:
        float32 [queries, classes].
    """
    import torch

    mean_D, spread_D = train_ND.mean(axis=0), train_ND.std(axis=0)
    spread_D = np.where(spread_D > 0, spread_D, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_ND, x_QD = (
        torch.tensor((each - mean_D) / spread_D, dtype=torch.float32).to(device) for each in (train_ND, test_QD)
    )
    y_NC = torch.tensor(present_NC, dtype=torch.float32).to(device)
    weight_DC = torch.zeros(x_ND.shape[1], y_NC.shape[1], device=device, requires_grad=True)
    bias_C = torch.zeros(y_NC.shape[1], device=device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_DC, bias_C], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        out_NC = x_ND @ weight_DC + bias_C
        if several:
            fit = torch.nn.functional.binary_cross_entropy_with_logits(out_NC, y_NC, reduction="sum")
        else:
            fit = torch.nn.functional.cross_entropy(out_NC, y_NC.argmax(dim=1), reduction="sum")
        total = (fit + weight_DC.square().sum() / (2 * strength)) / len(x_ND)
        total.backward()
        return total

    solver.step(loss)
    with torch.inference_mode():
        return (x_QD @ weight_DC + bias_C).cpu().numpy()


def chosen(
    train_ND: np.ndarray,
    present_NC: np.ndarray,
    val_VD: np.ndarray,
    several: bool,
    how_good: Callable[[np.ndarray], float],
) -> float:
    """The penalty among `STRENGTHS` that does best on a validation set; 1 where there is none.

    Args:
        train_ND, present_NC, several: see `logits`.
        val_VD: the validation set, float [n, width].
        how_good: of its logits, higher is better. Of equally good ones the strongest penalty is taken.
    """
    if not len(val_VD):
        return 1.0
    good = [how_good(logits(train_ND, present_NC, val_VD, several, strength)) for strength in STRENGTHS]
    return STRENGTHS[int(np.nanargmax(good))] if np.isfinite(good).any() else 1.0
