"""Everything that uses a model.

In: an archive of recordings, a student, photographs of species.
Out: species hits matched with photographs, a quarantine of what could not be read, and a page to look at.

Read in this order: `recorders` and `archive` (what is there), `spans` (the unit of work), `gallery` (the photographs),
`matching`, `annotator` (decode → mel → embed → match), `ledger` and `journal` (what a stopped run goes on from),
`report`; `embedding` and `evaluation` (how well sound finds
pictures), `benchmarks` and `checks`. Nothing here imports `jobs`.
"""
