"""The steps of `songsight annotate`, which `jobs.annotate` takes one by one.

In: the parts of its options (`options`). Out: the tables below `--out` and `run.json`.

Read in this order: `steps` (what every run does), `annotation` (of an archive) and `rematch` (of an earlier run's
windows), which are two ways to do it; `inputs` and `species` (model, gallery, what may be named), `identity` (whose
results lie at `--out`), `units` (the work that Ray spreads), `finalize` (how a run ends), `dry_run` and `say` (what is
printed).
"""
