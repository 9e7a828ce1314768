"""The bridge: draws a sound's vector towards the texts of the species that it resembles.

A student puts sounds near to texts, and the teacher put photographs near to the same texts; between sounds and
photographs there is a gap that neither training closed. The texts of known species are the piers of a bridge over it:
with unit vectors q of the sound and t_s of the species,

    a_s = softmax over s of (q · t_s / temperature)        how much the sound resembles each species' text
    n   = Σ a_s t_s, scaled to length 1                    the texts that it resembles, as one vector
    q'  = (1 − w) q + w n, scaled to length 1

w = 0 leaves the vector as it is; w = 1 asks by the texts alone. A species without a text is not named, but its sounds
are still drawn to its relatives' texts.
"""

from __future__ import annotations

import numpy as np

DEFAULT_TEMPERATURE = 0.02
"""Where a model has no learned logit scale of its own."""


def bridged(queries_QD: np.ndarray, names_SD: np.ndarray, weight: float, temperature: float) -> np.ndarray:
    """The queries, drawn towards the texts that they resemble.

    Args:
        queries_QD: unit vectors of sounds, float32 [queries, width]. Estimates of unit vectors by their dot products
            (see `codes`) may be of another length; what they are scaled by is then an estimate too.
        names_SD: unit vectors of the known species' texts, float32 [species, width].
        weight: w above, from 0 to 1.
        temperature: of the softmax, above 0; a student's own is exp(−log_scale).

    Returns:
        float32 [queries, width], unit length.

    Raises:
        ValueError: a weight or a temperature outside of these, or no species.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight should be from 0 to 1 (got {weight})")
    if not temperature > 0:
        raise ValueError(f"temperature should be above 0 (got {temperature})")
    if weight == 0:
        return np.asarray(queries_QD, np.float32)
    if not len(names_SD):
        raise ValueError("a bridge needs the text of one species at least")
    logits_QS = (queries_QD @ names_SD.T) / temperature
    logits_QS -= logits_QS.max(axis=1, keepdims=True)
    share_QS = np.exp(logits_QS)
    share_QS /= share_QS.sum(axis=1, keepdims=True)
    named_QD = share_QS @ names_SD
    named_QD /= np.maximum(np.linalg.norm(named_QD, axis=1, keepdims=True), 1e-12)
    drawn_QD = (1 - weight) * queries_QD + weight * named_QD
    # ‖(1−w)q + wn‖² by the law of cosines, of which q · n alone depends on the query.
    between_Q1 = np.sum(queries_QD * named_QD, axis=1, keepdims=True)
    length_Q1 = np.sqrt(np.maximum((1 - weight) ** 2 + weight**2 + 2 * weight * (1 - weight) * between_Q1, 1e-12))
    return (drawn_QD / length_Q1).astype(np.float32)
