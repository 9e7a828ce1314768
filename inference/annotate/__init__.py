"""A run over an archive, which may be stopped anywhere and goes on.

In: an inventory. Out: hits, quarantine, recordings seen, embeddings and `run.json`.

Read in this order: `record` (`run.json`), `rerun` (is there anything to do), `plan` (units of spans), `annotator`
(decode → mel → embed → match, one actor), `journal` and `ledger` (what a stopped run goes on from), `publish` (staged
rows become tables), `accounting` (files in = annotated + quarantined), `detections`, `throughput`; `source` and
`rematching` (kept embeddings matched again).
"""
