"""How well vectors and scores do: each measure with its formula, its source and what it does where there is no answer.

`retrieval` (finding a query's species in a gallery, at any size), `accuracy` (zero-shot), `probes` (kNN and a linear
probe of an embedding), `detection` (windows with several labels), `calibration_error` (whether a probability is one),
`bootstrap` (how certain a figure is, and a difference).
"""

from __future__ import annotations

from songsight.metrics.accuracy import naming_accuracy
from songsight.metrics.probes import knn_accuracy
from songsight.metrics.retrieval import average_precision, retrieval_map
from songsight.metrics.vectors import unit

__all__ = ["average_precision", "knn_accuracy", "naming_accuracy", "retrieval_map", "unit"]
