"""Windows in which several species sound: each species is a class that is there or not, and has a score.

All take `scores_WC` float [windows, classes] and `present_WC` bool [windows, classes] and answer for each class, so
that a mean over classes (macro) is the caller's `nanmean`: a class that cannot be judged is NaN.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from songsight.metrics.retrieval import average_precision

_CLASSES = 64  # at a time: a sorted column is four times as large as its scores


def class_average_precision(scores_WC: np.ndarray, present_WC: np.ndarray) -> np.ndarray:
    """Average precision of each class over the windows; NaN for a class that is in none.

    Its mean over the classes that are in at least one window is **cmAP** (BirdSet, arXiv 2403.10380, section 5; Perch,
    Denton et al., arXiv 2110.03209, section 3.2: class-averaged mean average precision): Σ_c AP(c) / C.

    Returns:
        float64 [classes].
    """
    parts = [average_precision(scores_WC[:, some].T, present_WC[:, some].T) for some in _chunks(np.shape(scores_WC)[1])]
    return np.concatenate(parts) if parts else np.zeros(0)


def cmap(scores_WC: np.ndarray, present_WC: np.ndarray) -> float:
    """cmAP = Σ_c AP(c) / C, see `class_average_precision`; NaN where no class is in any window."""
    return _mean(class_average_precision(scores_WC, present_WC))


def class_auroc(scores_WC: np.ndarray, present_WC: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class: the chance that a window with it outscores one without it.

    AUROC = (Σ ranks of the P windows with it − P(P+1)/2) / (P·N), equal scores sharing their mean rank, which counts
    a tie as one half: the Mann–Whitney U statistic (Hanley & McNeil 1982, Radiology 143:29–36).

    Returns:
        float64 [classes]; NaN for a class that is in no window, or in all.
    """
    present_WC = np.asarray(present_WC, bool)
    windows = len(present_WC)
    found_C = present_WC.sum(axis=0)
    area_C = np.full(present_WC.shape[1], np.nan)
    for some in _chunks(present_WC.shape[1]):
        ranks_WC = rankdata(scores_WC[:, some], axis=0)
        with_C, sum_C = found_C[some].astype(np.float64), (ranks_WC * present_WC[:, some]).sum(axis=0)
        pairs_C = with_C * (windows - with_C)
        above_C = sum_C - with_C * (with_C + 1) / 2
        area_C[some] = np.divide(above_C, pairs_C, out=np.full(len(pairs_C), np.nan), where=pairs_C > 0)
    return area_C


def auroc(scores_WC: np.ndarray, present_WC: np.ndarray) -> float:
    """The mean of `class_auroc` over the classes that have one (macro AUROC)."""
    return _mean(class_auroc(scores_WC, present_WC))


def class_best_f1(scores_WC: np.ndarray, present_WC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest F1 = 2PR / (P + R) that any threshold gives each class.

    van Rijsbergen, Information Retrieval, chapter 7, with precision and recall weighed alike. A window is called where
    its score is at least the threshold; the threshold is chosen on the same windows, so this is an upper bound.

    Returns:
        (F1 float64 [classes], the threshold float64 [classes], the highest of those that give it); both NaN for a
        class that is in no window.
    """
    scores_WC, present_WC = np.asarray(scores_WC), np.asarray(present_WC, bool)
    windows, classes = scores_WC.shape
    best_C, threshold_C = np.full(classes, np.nan), np.full(classes, np.nan)
    for c in range(classes):
        total = int(present_WC[:, c].sum())
        if not total:
            continue
        order = np.argsort(-scores_WC[:, c], kind="stable")
        falling = scores_WC[order, c]
        hits = np.cumsum(present_WC[order, c])
        f1 = 2 * hits / (np.arange(1, windows + 1) + total)
        f1[:-1][falling[:-1] == falling[1:]] = -1  # a threshold takes all equal scores or none
        place = int(f1.argmax())
        best_C[c], threshold_C[c] = f1[place], falling[place]
    return best_C, threshold_C


def best_f1(scores_WC: np.ndarray, present_WC: np.ndarray) -> float:
    """The mean of `class_best_f1` over the classes that are in at least one window (macro F1)."""
    return _mean(class_best_f1(scores_WC, present_WC)[0])


def _chunks(classes: int) -> list[slice]:
    return [slice(start, start + _CLASSES) for start in range(0, classes, _CLASSES)]


def _mean(values_C: np.ndarray) -> float:
    return float(np.nanmean(values_C)) if np.isfinite(values_C).any() else float("nan")
