"""Consecutive windows of one species in one recording become one detection.

Hits are merged when all units of a run are done, so that a song over the border of two units is one detection. DuckDB
streams the hits and spills what does not fit: an archive's hits need not fit in memory.
"""

from __future__ import annotations

import os
import tempfile

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from songsight.store import urls
from songsight.store.tables import DETECTIONS

MEMORY = "1GB"
_ROWS_PER_BATCH = 65_536
_ROUNDING_S = 1e-6  # of start and end times

# Gaps and islands: a window that starts later than `gap` behind all earlier ones' ends begins a new detection.
_MERGE = """
with marked as (
  select *, start_s - max(end_s) over earlier > $gap + $rounding as apart from hits
  window earlier as (
    partition by recording, scientific_name order by start_s, end_s rows between unbounded preceding and 1 preceding)
), numbered as (
  select *, sum(case when apart then 1 else 0 end) over (
    partition by recording, scientific_name order by start_s, end_s rows unbounded preceding) as island from marked
)
select any_value(run_id) as run_id, recording, any_value(site) as site, min(start_utc) as start_utc,
  min(start_s) as start_s, max(end_s) as end_s, scientific_name, any_value(common_name) as common_name,
  count(*)::int as windows, max(score) as score_max, avg(score)::float as score_mean,
  max(probability) as probability_max, arg_max(images[1], score) as image,
  any_value(model) as model, any_value(method) as method
from numbered group by recording, scientific_name, island order by recording, start_s, scientific_name
"""


def write(hits_url: str, url: str, gap_s: float) -> int:
    """Merges hits and writes them as one Parquet file, whole or not at all.

    Args:
        hits_url: folder of `tables.HITS`, however it is partitioned.
        url: the file, of `tables.DETECTIONS`, sorted by recording and start.
        gap_s: most seconds between the end of a window and the start of the next one of a detection.

    Returns:
        detections written.
    """
    filesystem, root = urls.arrow_filesystem(hits_url)
    # `site` is a folder's name, and text whatever it looks like.
    keys = pa.schema([("site", pa.string()), ("date", pa.string())])
    hits = ds.dataset(root, filesystem=filesystem, format="parquet", partitioning=ds.partitioning(keys, flavor="hive"))
    with tempfile.TemporaryDirectory() as scratch:
        made = os.path.join(scratch, "detections.parquet")
        rows = 0
        with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": scratch}) as database:
            database.register("hits", hits)
            query = database.sql(_MERGE, params={"gap": gap_s, "rounding": _ROUNDING_S})
            found: pa.RecordBatchReader = query.to_arrow_reader(_ROWS_PER_BATCH)
            with pq.ParquetWriter(made, DETECTIONS, compression="zstd") as sink:
                for batch in found:
                    sink.write_table(pa.Table.from_batches([batch]).cast(DETECTIONS))
                    rows += len(batch)
        urls.put_file(made, url)
    return rows
