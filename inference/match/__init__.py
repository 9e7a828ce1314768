"""From a window's vector to the species of its hits.

Read in this order: `gallery` (photographs, embedded once), `matching` (most similar photographs), `bridge` (drawn
towards texts first), `zero_shot` (by the names of an untouched ClapModel), `ranges` (place and season), `calibration`
(scores to probabilities), `scoring` (all of these by a run's options), `codes` and `embeddings` (vectors that are
kept).
"""
