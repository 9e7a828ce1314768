"""How well sound finds pictures: the tables of the papers, with intervals, and what they look like.

In: the vectors of recordings (see `embed`), a gallery, what the base model and the teacher make of texts.
Out: one table a question (a row a method, a direction, an encoder), each query's own result, a page to look at.

Read in this order: `methods` (ways from a sound to a picture), `table` (rows with intervals), `directions` (sound,
picture and text in all six directions), `probes` (the audio embedding before and after), `naming` (what it names by
type of text), `files` (what `--out` gets), `comparison` (two evaluations), `figures` and `page`.
"""
