"""Where things lie: `urls` (every read and write), `tables` (schemas and readers), `retry` (stores that fail),
`registry` and `checkpoints` (models by name), `cache` (what this machine made once).
"""
