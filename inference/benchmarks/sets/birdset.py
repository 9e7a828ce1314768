"""BirdSet's soundscapes (arXiv 2403.10380): 5 s segments with the codes of all that sing in them.

The layouts are those of `songsight.datasets.birdset`, of which `test_5s` names the segments and `train` the focal
recordings that the probes are fitted on (their beginning, as long as the encoder's clip):

    root/HSN_metadata_test_5s.parquet     `filepath`, `ebird_code_multilabel`, `start_time`, `end_time`
    root/**/HSN_001_20150708_061805.ogg            whole soundscapes, of which `start_time` and `end_time` are places
    root/**/HSN_001_20150708_061805_000_005.ogg    or cut ones (the published shards): the name says where from

    root/HSN/test_5s-00000-of-00003.parquet        Hugging Face's exports, whose `audio` may hold the sounds themselves

A part is one of BirdSet's data sets: the first word of its files' names or the name of their folder: HSN, POW, NES, …;
each is measured by itself.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inference.benchmarks import task
from inference.benchmarks.task import Ask, Labelled
from songsight.datasets import assemble, birdset, files
from songsight.datasets.taxonomy import Taxonomy
from songsight.errors import UserError
from songsight.store import urls

SEGMENT_S = 5
_METADATA = re.compile(r"(?:^|_)(?P<split>train|test_5s)(?:-\d+-of-\d+)?\.(?:parquet|csv)$")
_CUT = re.compile(r"_(\d{1,6})_(\d{1,6})$")
_SOUNDS_AT_ONCE = 64


def read(ask: Ask) -> list[Labelled]:
    """One task a data set.

    Raises:
        UserError: no `…test_5s` is there, no such part, or `--taxonomy` has no codes.
    """
    taxonomy = birdset.with_codes(ask.taxonomy)
    folder = files.Folder(ask.data)
    by_part: dict[str, list[str]] = defaultdict(list)
    for name in folder.tables(_METADATA.pattern):
        by_part[_part(folder, name)].append(name)
    tested = {part: names for part, names in by_part.items() if any(_split(name) == "test_5s" for name in names)}
    if not tested:
        raise UserError(f"--data {ask.data}: has no …test_5s .parquet or .csv, as BirdSet has")
    chosen = files.chosen_parts(tested, ask.parts, f"--parts: {ask.data}")
    return [_task(folder, part, tested[part], taxonomy, ask) for part in chosen]


def _split(name: str) -> str:
    found = _METADATA.search(posixpath.basename(name))
    return found["split"] if found else "test_5s"


def _part(folder: files.Folder, name: str) -> str:
    """`HSN_metadata_test_5s.parquet` and `HSN/test_5s-00000-of-00001.parquet` are of HSN."""
    base = posixpath.basename(name)
    if _METADATA.match(base):
        return posixpath.basename(posixpath.dirname(name)) or posixpath.basename(folder.url.rstrip("/"))
    return re.split(r"[_.]", base)[0]


def _task(folder: files.Folder, part: str, names: list[str], taxonomy: Taxonomy, ask: Ask) -> Labelled:
    tables = []
    for name in names:
        table = birdset.read_table(folder, name, _split(name), taxonomy)
        tables.append(_unpacked(folder, name, table, urls.join(ask.unpack or "", part)))
    whole = pa.concat_tables(tables, promote_options="permissive")
    inside = pa.array(whole["unpacked"].to_pylist(), pa.bool_())
    found, missing = assemble.present(whole.filter(pc.invert(inside)), folder)
    found = pa.concat_tables([whole.filter(inside), found], promote_options="permissive")
    rows = found.to_pylist()
    # Codes are the labels: what a taxonomy does not know can still be probed for.
    labels = [row["ebird_code_multilabel"] or _single(row) for row in rows]
    codes = sorted({code for row, own in zip(rows, labels, strict=True) if row["split"] == "test_5s" for code in own})
    if not codes:
        raise UserError(f"--data {folder.root}: nothing calls in the segments of {part} whose sound is there")
    clips = [_clip(row) | {"labels": own} for row, own in zip(rows, labels, strict=True)]
    classes = [task.class_row(code, taxonomy) for code in codes]
    unknown = [row["label"] for row in classes if row["scientific_name"] is None]
    notes = [f"not in the taxonomy, and so not asked for by text: {', '.join(unknown)}"] if unknown else []
    notes += [f"{len(missing)} rows are of files that are missing"] if len(missing) else []
    counts = {"missing": sum(split == "test_5s" for split in missing["split"].to_pylist())}
    return Labelled(f"birdset_{part}", task.clips(clips), classes, several=True, counts=counts, notes=notes)


def _clip(row: dict[str, Any]) -> dict[str, Any]:
    """Where a row's sound is, and which soundscape it is of."""
    name = posixpath.basename(row["path"])
    if row["split"] == "train":
        about = {"start_s": 0.0, "end_s": None, "unit": f"train/{name}", "recording": f"train/{name}"}
        return about | {"path": row["path"], "split": "train", "recordist": row.get("rights_holder")}
    start_s, end_s = _number(row.get("start_s")) or 0.0, _number(row.get("end_s"))
    stem = posixpath.splitext(name)[0]
    if cut := _CUT.search(stem):
        begin, end = int(cut[1]), int(cut[2])
        # `…_20150708_061805` is a date and a time, not a place of five seconds.
        if 0 < end - begin <= SEGMENT_S:
            # All of the file, whichever file `start_time` counts in.
            place = {"start_s": 0.0, "end_s": None, "unit": f"{stem[: cut.start()]}@{begin}"}
            return place | {"path": row["path"], "recording": stem[: cut.start()], "split": "test"}
    place = {"start_s": start_s, "end_s": end_s, "unit": f"{stem}@{start_s:g}"}
    return place | {"path": row["path"], "recording": stem, "split": "test"}


def _unpacked(folder: files.Folder, name: str, table: pa.Table, out: str) -> pa.Table:
    """The table with `unpacked`: whether a row's sound was in the table itself; `path` is then where it was written.

    Args:
        folder, name: of the table's file.
        table: as `birdset.read_table` gives it, row for row.
        out: folder or URL for the sounds.
    """
    paths, inside = table["path"].to_pylist(), [False] * len(table)
    if name.endswith(".parquet"):
        with urls.open_read(folder.open(name)) as handle:
            file = pq.ParquetFile(pa.PythonFile(handle))
            fields = file.schema_arrow
            if "audio" in fields.names and pa.types.is_struct(fields.field("audio").type):
                row = 0
                for batch in file.iter_batches(_SOUNDS_AT_ONCE, columns=["audio"]):
                    for sound in batch["audio"].to_pylist():
                        if sound and sound.get("bytes"):
                            paths[row] = files.absolute(urls.join(out, posixpath.basename(paths[row])))
                            if not urls.exists(paths[row]):
                                urls.write_bytes(paths[row], sound["bytes"])
                            inside[row] = True
                        row += 1
    table = table.set_column(table.column_names.index("path"), "path", pa.array(paths, pa.string()))
    return table.append_column("unpacked", pa.array(inside, pa.bool_()))


def _single(row: dict) -> list[str]:
    return [row["ebird_code"]] if row.get("ebird_code") else []


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
