"""From the manifest to each worker's share of every batch.

Read in this order: `order` (which row comes when), `rows` (a row as training sees it), `text_bank` (every text embedded
once), `split` (a batch among ranks), `stream` (decoded by Ray Data), `augment` and `noise`, `bad_rows`.
"""
