"""The trainer, on Ray Train.

Read in this order: `recipe` (what a run is), `launch` (how Ray starts it), `worker` and `loop` (what each worker does),
`features` and `step` (one step), `optimizer`, `look` and `wise_ft` (held-out recordings), `checkpoint`, `log`.
"""
