"""What planning a large archive costs the driver: seconds and peak memory, on an invented listing.

    python bench/plan.py --files 1000000

A child process lists folders of (empty) files that were made for it, or takes an invented listing and inventory, and
goes through what `songsight annotate` does with them: compare with an earlier run, plan, hand every unit to actors of
Ray that pretend to annotate it, gather its outcome, settle the account, sum up. Headers are left out: they are read by
Ray's workers, a block at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import accounting, annotator, ledger, plan
from inference.archive import inventory, listing
from inference.archive.spans import Windows
from jobs.annotating import units
from jobs.shared import cluster

SECONDS = 60.0


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def entries(count: int):  # type: ignore[no-untyped-def]
    """A site of 100 a day's 1,440 one-minute files, as a store would list them."""
    for number in range(count):
        site, minute = divmod(number, 1440 * 30)
        day, minute = divmod(minute, 1440)
        name = (
            f"site-{site:03}/202405{day + 1:02}/SMM{site:05}_202405{day + 1:02}_{minute // 60:02}{minute % 60:02}00.wav"
        )
        yield name, 5_760_044 + number % 7, f'"{number:032x}"'


def invented(files: pa.Table) -> pa.Table:
    """An inventory without reading a header."""
    count = len(files)
    columns = {name: files[name] for name in listing.SCHEMA.names}
    start = np.datetime64("2024-05-01T00:00:00", "us") + np.arange(count) * np.timedelta64(60_000_000, "us")
    columns |= {
        "duration_s": pa.array(np.full(count, SECONDS)),
        "sample_rate_hz": pa.array(np.full(count, 48_000, np.int32)),
        "channels": pa.array(np.ones(count, np.int32)),
        "recorder": pa.array(["Song Meter"]).take(pa.array(np.zeros(count, np.int64))),
        "start_utc": pa.array(start).cast(inventory.SEEN.field("start_utc").type),
        "site": pc.utf8_slice_codeunits(files["path"], 0, 8),
    }
    for name in ("reason", "detail", "cut_short"):
        columns[name] = pa.array([""]).take(pa.array(np.zeros(count, np.int64)))
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in inventory.SEEN]
    return pa.table(
        [array.cast(field.type) for array, field in zip(arrays, inventory.SEEN, strict=True)], inventory.SEEN
    )


class Pretending:
    """An actor in the annotator's place: every window of a unit was heard, and three hits found in each recording."""

    def __init__(self, settings: object) -> None:
        del settings

    def work(self, text: str) -> tuple[str, str]:
        """As of `Annotator`."""
        return outcome(*annotator.decode_unit(text)), ""


def outcome(unit, facts) -> str:  # type: ignore[no-untyped-def]
    spans: dict[str, list[tuple[int, int]]] = {}
    for span in unit.spans:
        spans.setdefault(span.path, []).append((span.first, span.count))
    files = [
        {"path": path, "version": facts[path]["version"], "windows": sum(count for _, count in some), "silent": 0}
        | {"hits": 3, "reason": "", "detail": "", "spans": some}
        for path, some in spans.items()
    ]
    return json.dumps({"unit": unit.name, "parts": [("s", "2024-05-14", 9)], "files": files})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    options = parser.parse_args()
    windows = Windows(10.0, 10.0)
    print(f"{'imports':<34} {'':>7}   peak {peak_mb():6.0f} MB")
    begin = time.monotonic()

    def said(what: str) -> None:
        nonlocal begin
        print(f"{what:<34} {time.monotonic() - begin:6.1f} s, peak {peak_mb():6.0f} MB", flush=True)
        begin = time.monotonic()

    chunks, skipped = listing.collect(entries(options.files), lambda found: None)
    found = listing.Listing(
        "s3://bucket", pa.Table.from_batches(chunks, listing.SCHEMA).sort_by("path").combine_chunks(), skipped
    )
    del chunks
    said(f"{len(found):,} files listed")
    found.fingerprint()
    said("fingerprint")
    none = pa.table(
        {"path": [], "size_bytes": [], "etag_or_mtime": [], "reason": []},
        listing.SCHEMA.append(pa.field("reason", pa.string())),
    )
    change = listing.compare(found.table, none, ())
    said("compared with no earlier run")
    seen = invented(change.todo)
    said("inventory invented")
    planned = plan.make(seen, windows, ledger.gather([]))
    said(f"{len(planned.count_S):,} spans, {planned.units:,} units planned")
    annotator.Annotator = Pretending  # type: ignore[misc,assignment]
    cluster.connect()
    outcomes = units.run_units(None, planned, cluster.slots(0), 0, [])  # type: ignore[arg-type]
    said("units sent through Ray, outcomes kept")
    again = plan.make(seen, windows, outcomes)
    assert again.units == 0
    said("planned again: all is finished")
    recordings = accounting.settle(seen, outcomes.files, 14_000)
    sums = accounting.totals(recordings, windows)
    assert sums.annotated == options.files
    said("account settled")
    grown = listing.compare(found.table, recordings, ())
    assert not len(grown.todo)
    said("compared with that run")


if __name__ == "__main__":
    main()
