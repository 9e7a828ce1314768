"""A procedural world to show songsight on, where nothing can be downloaded.

In: a seed. Out: a folder with focal recordings, photographs, an archive of field recordings with its true labels, and
two small stand-in models: an open_clip teacher in BioCLIP-2's place and a ClapModel in BioLingual's. Their formats are
the real models' own; their birds are invented.

A species' looks and its song descend the same tree of life but are drawn independently of each other. Only the
species' text ties them together, so sound finds pictures only through what distillation teaches.

Read in this order: `species` (names and traits); `pictures` and `songs` (traits to pixels and samples); `soundscapes`
and `world` (files and tables); `teacher`, `base` and `stand_ins` (the two models). Nothing in `distill` or `inference`
knows of this package.
"""
