"""SSW60, Sapsucker Woods 60 (https://github.com/visipedia/ssw60, ECCV 2022): 60 birds in sound, image and video.

    root/taxa.csv           label, names, family, order
    root/audio_ml.csv       → audio_ml/{asset_id}.wav
    root/video_ml.csv       → video_ml/{asset_id}.mp4, 25 frames/s
    root/images_inat.csv    → images_inat/{asset_id}.jpg, with rights_holder and license_id
    root/images_nabirds.csv → images_nabirds/{asset_id}.jpg, with photographer

Recordings are audio_ml unless video_ml is asked for: the two are scored apart. Images are both collections, or the one
that is there. A video's row has a frame a second, in the order in which `target_second` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from songsight.datasets import files, taxonomy
from songsight.errors import UserError
from songsight.store import tables

_ENDING = {"audio_ml": "wav", "video_ml": "mp4", "images_inat": "jpg", "images_nabirds": "jpg"}
_DEFAULT = {"recordings": ("audio_ml",), "images": ("images_inat", "images_nabirds")}
_OFFERED = {"recordings": ("audio_ml", "video_ml"), "images": ("images_inat", "images_nabirds")}
_ORIGIN = {"images_inat": "iNat2021", "images_nabirds": "NABirds"}
# All sixty species are birds; taxa.csv begins at the order.
_ROOT = {"kingdom": "Animalia", "phylum": "Chordata", "class": "Aves"}
_TEXT = ("asset_id", "label", "split", "rights_holder", "photographer", "license_id", "nabirds_labels")
_TAXA = {"label", "common_name", "scientific_name", "family", "order"}


def read(folder: files.Folder, table: str = "recordings", parts: Sequence[str] = ()) -> pa.Table:
    """Reads the parts of one table.

    Args:
        folder: the unpacked data set.
        table: `recordings` or `images`.
        parts: some of audio_ml and video_ml, or of images_inat and images_nabirds.

    Raises:
        UserError: taxa.csv or a part's CSV is missing or lacks columns, or a label that taxa.csv does not have.
    """
    asked = list(files.chosen_parts(_OFFERED[table], parts, f"ssw60's {table} table")) if parts else []
    here = [name for name in _DEFAULT[table] if f"{name}.csv" in folder.files]
    names = asked or here or _DEFAULT[table][:1]
    for name in ("taxa", *names):
        if f"{name}.csv" not in folder.files:
            raise UserError(f"{folder.root} has no {name}.csv, as SSW60 has")
    taxa_url = folder.open("taxa.csv")
    taxa_rows = files.read_rows(taxa_url, ["label", "common_name", "scientific_name", "family", "order"], _TEXT)
    taxa = {row["label"]: row for row in taxa_rows.to_pylist()}
    read_parts = [_read_part(folder, name, taxa, f"{table[:-1]}_id") for name in names]
    return files.stack(read_parts, folder.root)


def notes(folder: files.Folder, table: pa.Table, _: taxonomy.Taxonomy | None) -> list[str]:
    """Which collection of photographs is not there to be read."""
    if "image_id" not in table.column_names:
        return []
    absent = [part for part in _DEFAULT["images"] if f"{part}.csv" not in folder.files]
    return [f"without {part}: {folder.root} has no {part}.csv" for part in absent]


def _read_part(folder: files.Folder, part: str, taxa: dict[str, dict], id_name: str) -> pa.Table:
    url = folder.open(f"{part}.csv")
    rows = files.read_rows(url, ["asset_id", "label", "split"], _TEXT)
    labels = rows["label"].to_pylist()
    strangers = sorted({label for label in labels if label not in taxa})
    if strangers:
        raise UserError(f"{url} has labels that taxa.csv does not: {', '.join(strangers[:5])}")
    assets = rows["asset_id"].to_pylist()
    paths = [f"{part}/{asset}.{_ENDING[part]}" for asset in assets]
    columns = {
        id_name: [f"{part}/{asset}" for asset in assets],
        "path": paths,
        "scientific_name": [taxa[label]["scientific_name"] for label in labels],
        "common_name": [taxa[label]["common_name"] for label in labels],
        **{rank: [name] * len(rows) for rank, name in _ROOT.items()},
        "order": [taxa[label]["order"] for label in labels],
        "family": [taxonomy.without_gloss(taxa[label]["family"]) for label in labels],
        "split": rows["split"].to_pylist(),
        "rights_holder": files.values(rows, "rights_holder", "photographer"),
        # What the numbers stand for is said by iNat2021's own files, not by SSW60's.
        "license": [None if each is None else f"iNat2021 license {each}" for each in files.values(rows, "license_id")],
        # ML is the Macaulay Library, whose assets have pages of their own.
        "source": [_ORIGIN.get(part, f"https://macaulaylibrary.org/asset/{asset}") for asset in assets],
    }
    result = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    if part == "video_ml":
        result["frames"] = _frames(paths, rows)
    used = {"asset_id", "split", "rights_holder", "photographer"}
    rest = {name: rows[name] for name in rows.column_names if name not in used and name not in result}
    # Beside the names, taxa.csv has the species' numbers in other lists.
    for name in sorted(next(iter(taxa.values())).keys() - _TAXA - rest.keys()):
        rest[name] = pa.array([taxa[label][name] for label in labels])
    return pa.table(result | rest)


def _frames(paths: list[str], rows: pa.Table) -> pa.Array:
    """A frame in the middle of each second, as places in the video itself: that of second 5 is `frames[5]`."""
    durations_s = files.values(rows, "duration_seconds")
    frames = [
        None if duration_s is None else [{"path": path, "time_s": second + 0.5} for second in range(round(duration_s))]
        for path, duration_s in zip(paths, durations_s, strict=True)
    ]
    return pa.array(frames, tables.RECORDINGS.field("frames").type)
