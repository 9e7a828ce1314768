"""Which species a run may name, by the gallery, `--species-list` and the kind of model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.match import zero_shot as texts
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import sheets, tables, urls

if TYPE_CHECKING:
    from inference.annotate.ledger import Ledger
    from inference.match.gallery import Gallery
    from songsight.models.clap import TextTower


@dataclass(frozen=True)
class Names:
    """The species that an untouched ClapModel names.

    Attributes:
        species: (scientific name, common name where it is known), sorted.
        vectors_SD: the model's own, float32 [species, joint width].
    """

    species: list[tuple[str, str | None]]
    vectors_SD: np.ndarray

    def fingerprint(self) -> str:
        """A hash of names and vectors: 16 hex digits of SHA-256."""
        digest = hashlib.sha256(repr(self.species).encode())
        digest.update(self.vectors_SD.tobytes())
        return digest.hexdigest()[:16]

    def keep(self, state: Ledger) -> str:
        """Writes them where a run's annotators find them, and returns the URL."""
        url = urls.join(state.url, "names.parquet")
        tables.write_table(url, texts.names_table(self.species, self.vectors_SD))
        return url


def choose(
    path: str | None, shown: Gallery, encoder: dict[str, Any], text: TextTower | None, whose: str
) -> tuple[Names | None, tuple[str, ...] | None]:
    """The species that may be hit, once the gallery is known to fit the model.

    Args:
        path: `--species-list`.
        shown: the gallery.
        encoder: what `run.json` says of the model.
        text: of an untouched ClapModel, whose own texts name the species; None for a distilled model.
        whose: what the gallery has to fit, for the error line.

    Returns:
        (names of an untouched ClapModel, else None; a distilled model's scientific names, None for all of the gallery).

    Raises:
        UserError: the gallery is another teacher's, or the list cannot be used.
    """
    if text is not None:
        return zero_shot(path, shown, text), None
    shown.check_teacher(encoder["width"], encoder["teacher_fingerprint"], "--gallery", whose)
    return None, of_gallery(path, shown) if path else None


def zero_shot(path: str | None, shown: Gallery, text: TextTower) -> Names:
    """The species of `--species-list`, with a photograph or without, or else all of the gallery.

    Raises:
        UserError: no such list, or an empty one.
    """
    common: dict[str, str | None] = dict(
        zip(shown.names["scientific_name"].to_pylist(), shown.names["common_name"].to_pylist(), strict=True)
    )
    species = common
    if path:
        listed = read_list(path)
        if not listed:
            raise UserError(f"--species-list {path}: names no species")
        species = {name: said or common.get(name) for name, said in listed.items()}
        _note_unseen(listed, shown)
    ordered = sorted(species.items())
    return Names(ordered, text.names(ordered))


def of_gallery(path: str, shown: Gallery) -> tuple[str, ...]:
    """The names of `--species-list` that the gallery shows.

    Raises:
        UserError: no such file, or none of its species is in the gallery.
    """
    listed = read_list(path)
    found = tuple(sorted(listed.keys() & set(shown.species)))
    if not found:
        raise UserError(f"--species-list {path}: none of its {len(listed)} names is a species of the gallery")
    _note_unseen(listed, shown)
    return found


def _note_unseen(listed: dict[str, str | None], shown: Gallery) -> None:
    if missing := sorted(set(listed) - set(shown.species)):
        opts.note(f"{len(missing)} of {len(listed)} listed species have no photograph, such as {missing[0]}")


def read_list(path: str) -> dict[str, str | None]:
    """A list's scientific names, and the common names that it gives (BirdNET's `Genus epithet_Common Name`).

    Raises:
        UserError: no such file, or it is no text.
    """
    if not urls.exists(path):
        raise UserError(f"--species-list: no such file: {path}")
    listed: dict[str, str | None] = {}
    for line in sheets.names(path):
        name, _, common = line.partition("_")
        listed.setdefault(name.strip(), common.strip() or None)
    return listed
