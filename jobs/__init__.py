"""What a person runs or submits: one short file a command, and a room for what several files of one command share.

A command reads its options, loads, checks, does, keeps and says. Read `cli` first, then `shared/options` and
`shared/tracking`, which every command uses; after that each file stands alone.
"""
