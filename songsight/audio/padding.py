"""How a short clip becomes as long as the encoder hears. Apart from the features, so that decoding needs no torch."""

from __future__ import annotations

import numpy as np


def fit_length(samples: np.ndarray, length: int, padding: str = "repeatpad") -> np.ndarray:
    """Pads a short clip the way CLAP was trained to see it.

    Args:
        samples: float32 [n], 0 < n <= length.
        length: samples that the encoder takes.
        padding: `repeatpad` tiles whole repeats and fills up with zeros; `repeat` tiles and cuts; `pad` only fills up.

    Returns:
        float32 [length].
    """
    if len(samples) == length:
        return samples
    if padding == "repeat":
        return np.tile(samples, length // len(samples) + 1)[:length]
    if padding == "repeatpad":
        samples = np.tile(samples, length // len(samples))
    return np.pad(samples, (0, length - len(samples)))
