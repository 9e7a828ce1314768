"""How well vectors and scores do: each measure with its formula, its source and what it does where there is no answer.

`retrieval` (finding a query's species in a gallery, at any size), `naming` (zero-shot), `probes` (kNN and a linear
probe of an embedding), `detection` (windows with several labels), `calibration_error` (whether a probability is one),
`bootstrap` (how certain a figure is, and a difference).
"""

from __future__ import annotations

from distill.metrics.naming import naming_accuracy
from distill.metrics.probes import knn_accuracy
from distill.metrics.retrieval import average_precision, retrieval_map
from distill.metrics.vectors import unit

__all__ = ["average_precision", "knn_accuracy", "naming_accuracy", "retrieval_map", "unit"]
