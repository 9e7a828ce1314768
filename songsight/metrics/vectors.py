"""What all measures of vectors need."""

from __future__ import annotations

import numpy as np


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(norms > 0, norms, 1)


def numbered(*labels: np.ndarray) -> list[np.ndarray]:
    """Labels of several sets as numbers, equal where the labels are: int64, of the given lengths."""
    together = np.concatenate([np.asarray(some).astype(str) for some in labels])
    numbers = np.unique(together, return_inverse=True)[1]
    return np.split(numbers, np.cumsum([len(some) for some in labels])[:-1])
