"""What is in an archive, as far as names and headers tell.

In: a folder or URL. Out: an inventory of recordings, and how they are cut.

Read in this order: `listing` (paths, sizes, times), `recorders` (which recorder, when, where), by `names`, `wamd` and
`clocks`, `sites`, `inventory` (one row a recording), `spans` (windows to read in one go).
"""
