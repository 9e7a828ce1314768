"""What uses a model.

In: an archive of recordings, a model, photographs of species.
Out: species hits matched with photographs, a quarantine of what could not be read, tables and pages.

Rooms: `archive` (what is there: files, headers, clocks, sites, spans), `match` (gallery, bridge, calibration: from
vectors to species), `annotate` (a run: plan, ledger, decoding and embedding, publishing), `report`; `truth` (what
people heard), `evaluation` (how well sound finds pictures), `benchmarks` and `checks`. It rests on `songsight` and
knows neither `distill` nor `jobs`.
"""
