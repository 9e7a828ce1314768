"""A folder a species: the layout that most collections have when nobody has planned one.

    root/Turdus merula/a.wav                     the scientific name
    root/Song_Thrush/b.jpg                       or the common one; underscores are spaces
    root/Turdus merula_Common Blackbird/c.flac   or both, as BirdNET labels its classes
    root/train/Turdus_merula/d.ogg               splits, if any, above the species

Recordings or images are told by their endings. The third is the layout that BirdNET-Analyzer trains from
(https://github.com/birdnet-team/BirdNET-Analyzer).
"""

from __future__ import annotations

import re

import pyarrow as pa

from songsight.datasets import files
from songsight.errors import UserError

ENDINGS = {
    "recordings": ["wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "aac", "wma", "aif", "aiff"],
    "images": ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"],
}

# "Junco hyemalis" and "Junco hyemalis oreganus", perhaps with a capitalised common name behind: "Common Loon" is none.
_BINOMIAL = re.compile(r"([A-Z][a-z]+(?: [a-z][a-z-]+){1,2})(?: ([A-Z].*))?")


def names_of(folder_name: str) -> tuple[str | None, str | None]:
    """The scientific and the common name that a folder's name gives; None for the one that it does not."""
    before, underscore, behind = folder_name.partition("_")
    if underscore and _BINOMIAL.fullmatch(before.strip()):
        return before.strip(), behind.replace("_", " ").strip() or None
    spaced = " ".join(folder_name.replace("_", " ").split())
    found = _BINOMIAL.fullmatch(spaced)
    return (found.group(1), found.group(2)) if found else (None, spaced)


def read(folder: files.Folder, table: str = "recordings") -> pa.Table:
    """Reads a folder of species folders.

    Args:
        folder: the root.
        table: `recordings` or `images`.

    Raises:
        UserError: no file of that kind lies in a folder of its own.
    """
    endings = tuple("." + ending for ending in ENDINGS[table])
    found = sorted(file for file in folder.files if file.lower().endswith(endings))
    paths, splits, scientific, common = [], [], [], []
    for path in found:
        above = path.split("/")[:-1]
        split = above.pop(0).lower() if len(above) > 1 and above[0].lower() in files.SPLITS else None
        species = names_of(above[0]) if above else (None, None)
        paths.append(path)
        splits.append(split)
        scientific.append(species[0])
        common.append(species[1])
    if not any(scientific) and not any(common):
        raise UserError(f"{folder.root} has no species folders with {table} (files ending in {', '.join(endings)})")
    text = pa.string()
    return pa.table(
        {
            f"{table[:-1]}_id": pa.array(map(files.short_hash, paths), text),
            "path": pa.array(paths, text),
            "scientific_name": pa.array(scientific, text),
            "common_name": pa.array(common, text),
            "split": pa.array(splits, text),
        }
    )
