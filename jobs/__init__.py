"""What a person runs or submits: one short file a job.

A job reads its options, calls `distill` and `inference`, and logs the run. Read `cli.py` first, then `options.py`
and `tracking.py`, which every job uses; after that each file stands alone.
"""
