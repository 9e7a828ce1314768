"""Any span of any recording, as float32 samples, at the price of that span.

Read in this order: `names` (which files are recordings), `header` (what a WAV's header claims), `flac` and `mp3`
(lengths that headers get wrong), `decoders` (libsndfile and PyAV), `channels` (several become one), `reader` (what
everything else calls), `padding`, `clips` (rows of a table to clips of an encoder).
"""
