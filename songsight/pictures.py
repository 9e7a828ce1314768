"""A picture of what training has come to: held-out recordings beside the photographs that they find.

┌ spectrogram ┐  ┌────┐┌────┐┌────┐┌────┐┌────┐
│  recording  │  │ nearest photographs, a frame   green: its own species, red: another
└ its species ┘  └────┘└────┘└────┘└────┘└────┘
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from songsight.audio.clips import Clips
from songsight.audio.reader import AudioError

if TYPE_CHECKING:
    import torch

RECORDINGS = 6
PHOTOGRAPHS = 5
_PHOTOGRAPH_PX = 168
_SPECTROGRAM_PX = (400, _PHOTOGRAPH_PX)
_FRAME_PX = 6
_GAP_PX = 14
_CAPTION_PX = 30
_MARGIN_PX = 28
_HEADING_PX = 64
_DECIBELS_SHOWN = 55.0
_PAPER, _INK, _FAINT = "#fbfaf7", "#22211f", "#7a7770"
_RIGHT, _WRONG = "#2e9e4f", "#c9473b"


@dataclass(frozen=True)
class Photographs:
    """What is drawn of a gallery, in the order of `HeldOut.image_vectors`.

    Attributes:
        thumbnails: encoded images, binary [images]. An Arrow column, which Ray's workers read without a copy.
        names: scientific name of each, [images].
        species_names: scientific name of each label of the held-out recordings, [species].
    """

    thumbnails: pa.ChunkedArray
    names: list[str]
    species_names: list[str]


@dataclass(frozen=True)
class HeldOut:
    """What training is looked at with: recordings that it never hears.

    Attributes:
        clips: the recordings.
        species: label of each recording, int32 [rows], into `name_vectors`.
        name_vectors: the teacher's text embedding of each species, float32 [species, width].
        image_vectors: photographs of a gallery, float32 [images, width]; None without a gallery.
        image_species: label of each photograph, int32 [images].
        photographs: what a look is drawn with; None for no picture.
    """

    clips: Clips
    species: np.ndarray
    name_vectors: np.ndarray
    image_vectors: np.ndarray | None = None
    image_species: np.ndarray | None = None
    photographs: Photographs | None = None


def choose(species: np.ndarray, known: np.ndarray, count: int = RECORDINGS) -> np.ndarray:
    """Recordings to draw, of as many species as there are; the same at every look, so that pictures are comparable.

    Args:
        species: label of each recording, int [recordings].
        known: labels that the gallery has photographs of.
        count: how many at most.

    Returns:
        places in `species`, int64 [at most count], ordered by species.
    """
    places = np.flatnonzero(np.isin(species, known))
    turn = np.zeros(len(places), np.int64)  # a species' first recording comes before any species' second
    seen: dict[int, int] = {}
    for i, label in enumerate(species[places]):
        turn[i] = seen[int(label)] = seen.get(int(label), -1) + 1
    order = places[np.lexsort((species[places], turn))]
    first = order[: int((turn == 0).sum())]
    if len(first) > count:  # spread over the species: neighbours in the table are often relatives
        order = first[np.linspace(0, len(first) - 1, count).round().astype(int)]
    chosen = order[:count]
    return chosen[np.argsort(species[chosen], kind="stable")]


def draw(vectors: np.ndarray, rows: np.ndarray, held_out: HeldOut, mel: torch.nn.Module, heading: str) -> Any:
    """Draws a look at the held-out recordings.

    Args:
        vectors: of the recordings that could be decoded, float32 [m, width].
        rows: which they are, int64 [m].
        held_out: the recordings and photographs.
        mel: the student's features.
        heading: above the picture.

    Returns:
        a PIL image.
    """
    from PIL import Image, ImageDraw

    assert held_out.photographs is not None
    assert held_out.image_vectors is not None
    assert held_out.image_species is not None
    shown, labels = held_out.photographs, held_out.image_species
    in_order = np.argsort(rows)
    places = in_order[choose(held_out.species[rows[in_order]], np.unique(labels))]
    nearest = np.argsort(-(vectors[places] @ held_out.image_vectors.T), axis=1, kind="stable")[:, :PHOTOGRAPHS]
    found = labels[nearest] == held_out.species[rows[places]][:, None]

    cell, line = _PHOTOGRAPH_PX + _GAP_PX, _PHOTOGRAPH_PX + _CAPTION_PX + _GAP_PX
    left = _MARGIN_PX + _SPECTROGRAM_PX[0] + 2 * _GAP_PX
    size = (left + nearest.shape[1] * cell - _GAP_PX + _MARGIN_PX, _HEADING_PX + len(places) * line + _MARGIN_PX)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN_PX, _HEADING_PX // 2), heading, _INK, _font(22, bold=True), anchor="lm")
    said = f"{found.sum()} of {found.size} nearest photographs show the species that sings"
    pen.text((size[0] - _MARGIN_PX, _HEADING_PX // 2), said, _FAINT, _font(16), anchor="rm")
    for i, place in enumerate(places):
        row = int(rows[place])
        top = _HEADING_PX + i * line
        sheet.paste(_spectrogram(row, held_out, mel), (_MARGIN_PX, top))
        name = shown.species_names[held_out.species[row]]
        pen.text((_MARGIN_PX, top + _PHOTOGRAPH_PX + 6), name, _INK, _font(16, bold=True))
        for j, photograph in enumerate(nearest[i]):
            x = left + j * cell
            pen.rectangle((x, top, x + _PHOTOGRAPH_PX - 1, top + _PHOTOGRAPH_PX - 1), _RIGHT if found[i, j] else _WRONG)
            sheet.paste(_photograph(shown.thumbnails[int(photograph)].as_py()), (x + _FRAME_PX, top + _FRAME_PX))
            ink = _RIGHT if found[i, j] else _FAINT
            _caption(pen, (x, top + _PHOTOGRAPH_PX + 6), shown.names[int(photograph)], ink)
    return sheet


def _spectrogram(row: int, held_out: HeldOut, mel: torch.nn.Module) -> Any:
    """What the student hears of a recording: time to the right, mels upwards, the loudest 55 dB."""
    import matplotlib
    import torch
    from PIL import Image

    device = next(mel.buffers()).device
    try:
        wave = held_out.clips.clip(row, None)
    except AudioError:  # it went away since it was embedded
        return Image.new("RGB", _SPECTROGRAM_PX, _FAINT)
    with torch.inference_mode():
        decibels_MT = mel(torch.from_numpy(wave[None]).to(device))[0, 0].T.flip(0).float().cpu().numpy()
    level = np.clip((decibels_MT - decibels_MT.max() + _DECIBELS_SHOWN) / _DECIBELS_SHOWN, 0, 1)
    picture = Image.fromarray((matplotlib.colormaps["magma"](level)[..., :3] * 255).astype(np.uint8))
    return picture.resize(_SPECTROGRAM_PX, Image.Resampling.BICUBIC)


def _photograph(data: bytes) -> Any:
    """A thumbnail cut square to fit its frame."""
    from PIL import Image, ImageOps

    side = _PHOTOGRAPH_PX - 2 * _FRAME_PX
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.fit(image.convert("RGB"), (side, side))


def _caption(pen: Any, at: tuple[int, int], text: str, ink: str) -> None:
    """Text in the width of a photograph, shortened where it is longer."""
    font = _font(13)
    short = text
    while pen.textlength(short, font) > _PHOTOGRAPH_PX and len(short) > 1:
        short = short.rstrip("…")[:-1].rstrip() + "…"
    pen.text(at, short, ink, font)


def _font(size_px: int, bold: bool = False) -> Any:
    """A font that is wherever matplotlib is, and has the letters of every name."""
    import os

    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size_px)
