"""The page of an annotated archive: each species' best hits to see and to hear, beside the photographs they match.

One self-contained HTML file: spectrograms, sounds and thumbnails are inside, so that it can be mailed to somebody.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import soundfile

from inference.annotate import publish, record
from inference.annotate.record import Record
from inference.match.gallery import Gallery
from songsight.audio import channels
from songsight.audio.reader import AudioError, open_audio, read_mono
from songsight.store import urls

LARGEST_RATE_HZ = 32_000  # what an MP3 for listening needs; spectrograms show what is below half of it
SPECTROGRAM_PX = (560, 180)
_DECIBELS_SHOWN = 55.0


@dataclass(frozen=True)
class Annotated:
    """What `songsight annotate` left.

    Attributes:
        url: of the results.
        record: `run.json`.
        hits, quarantine, recordings: the tables.
    """

    url: str
    record: Record
    hits: pa.Table
    quarantine: pa.Table
    recordings: pa.Table


def read(url: str, option: str = "--annotated") -> Annotated:
    """Reads an annotated archive.

    Raises:
        UserError: there is none at the URL, or its run has not ended.
    """
    told = record.finished(url, option, ("archive", "gallery"))
    filesystem, root = urls.arrow_filesystem(url)
    found = {
        name: ds.dataset(f"{root}/{name}", filesystem=filesystem, format="parquet").to_table()
        for name in ("quarantine", "recordings")
    }
    return Annotated(url, told, hits=publish.read_hits(url), **found)


def best_hits(hits: pa.Table, per_species: int, most_species: int) -> list[tuple[str, list[dict[str, Any]], int]]:
    """Each species' highest-scored hits, at most one a recording while there are others.

    Args:
        hits: a `tables.HITS` table.
        per_species: hits to show of each.
        most_species: species to show, those with the best hits.

    Returns:
        (scientific name, its hits by falling score, how many it has in all), by falling best score.
    """
    order = pc.sort_indices(
        hits, [("score", "descending"), ("recording", "ascending"), ("start_s", "ascending")]
    ).to_numpy()
    name_N, names = _numbered(hits["scientific_name"].take(order))  # numbered by falling best score
    recording_N, _ = _numbered(hits["recording"].take(order))
    counts = np.bincount(name_N, minlength=len(names))
    by_name = np.argsort(name_N, kind="stable")
    shown = []
    for name, rows in zip(names[:most_species], np.split(by_name, np.cumsum(counts)[:-1]), strict=False):
        firsts = np.sort(np.unique(recording_N[rows], return_index=True)[1])[:per_species]
        others = np.setdiff1d(np.arange(min(len(rows), 2 * per_species)), firsts)[: per_species - len(firsts)]
        chosen = rows[np.sort(np.concatenate([firsts, others]))]
        shown.append((name, hits.take(order[chosen]).to_pylist(), len(rows)))
    return shown


def _numbered(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Each value's number, int [rows], and the values, in the order in which they first come."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _by_hour(hits: pa.Table) -> dict[str, np.ndarray]:
    """How many of a species' windows begin in each hour of the day, in UTC: int [24] by scientific name."""
    known = hits.select(["scientific_name", "start_utc"]).drop_null()
    name_N, names = _numbered(known["scientific_name"])
    hour_N = pc.hour(known["start_utc"]).to_numpy()
    counts = np.bincount(name_N * 24 + hour_N, minlength=24 * len(names)).reshape(-1, 24)
    return dict(zip(names, counts, strict=True))


def spectrogram_webp(samples: np.ndarray, rate_hz: int) -> bytes:
    """A picture of a sound: time to the right, 0 Hz to half the rate upwards, the loudest 55 dB.

    Args:
        samples: float32 [n], n > 0.
        rate_hz: of the samples.
    """
    import matplotlib
    import scipy.fft
    from PIL import Image

    width, height = SPECTROGRAM_PX
    size = 512
    padded = np.pad(samples, (size // 2, size // 2 + size)).astype(np.float32)
    starts = np.linspace(0, len(samples) - 1, width).astype(int)
    frames_WF = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size).astype(np.float32)
    power_WF = np.abs(scipy.fft.rfft(frames_WF, axis=1)) ** 2
    decibels_FW = 10 * np.log10(power_WF + 1e-12).T[::-1]
    top = decibels_FW.max()
    level = np.clip((decibels_FW - top + _DECIBELS_SHOWN) / _DECIBELS_SHOWN, 0, 1)
    image = Image.fromarray((matplotlib.colormaps["magma"](level)[..., :3] * 255).astype(np.uint8))
    sink = io.BytesIO()
    image.resize((width, height)).save(sink, "WEBP", quality=70, method=2)
    return sink.getvalue()


def mp3(samples: np.ndarray, rate_hz: int) -> bytes:
    """A sound that every browser plays, at full level.

    Args:
        samples: float32 [n].
        rate_hz: of the samples; one that MP3 has.
    """
    sink = io.BytesIO()
    peak = float(np.abs(samples).max())
    soundfile.write(sink, samples * (0.9 / peak if peak else 1), rate_hz, format="MP3", subtype="MPEG_LAYER_III")
    return sink.getvalue()


def page(
    annotated: Annotated,
    gallery: Gallery,
    title: str,
    per_species: int = 3,
    most_species: int = 100,
    evaluation: list[dict[str, Any]] | None = None,
) -> str:
    """The page as HTML text.

    Args:
        annotated: what to show.
        gallery: that the archive was matched with; its thumbnails are shown.
        title: the page's heading.
        per_species, most_species: see `best_hits`.
        evaluation: the rows of a `table.json` of `songsight evaluate`, shown above the hits.
    """
    import jinja2

    thumbnails = dict(zip(gallery.images["image_id"].to_pylist(), gallery.images["thumbnail"].to_pylist(), strict=True))
    credits = {row["image_id"]: _credit(row) for row in gallery.images.drop_columns("thumbnail").to_pylist()}
    rates = dict(
        zip(annotated.recordings["path"].to_pylist(), annotated.recordings["sample_rate_hz"].to_pylist(), strict=True)
    )
    shown = best_hits(annotated.hits, per_species, most_species)
    archive, channel = annotated.record.archive, annotated.record.options.get("channel", channels.MEAN)
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(
            lambda hit: _card(hit, archive, channel, rates[hit["recording"]], thumbnails, credits),
            [hit for _, hits, _ in shown for hit in hits],
        )
    species = []
    hours = _by_hour(annotated.hits)
    for name, hits, count in shown:
        cards = [next(drawn) for _ in hits]
        species.append(
            {
                "scientific_name": name,
                "common_name": hits[0]["common_name"],
                "count": count,
                "best": hits[0]["score"],
                "cards": cards,
                "hours": (hours[name] / hours[name].max()).tolist() if name in hours else [],
            }
        )
    reasons = Counter(annotated.quarantine["reason"].to_pylist())
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources.files("inference.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        record=annotated.record,
        species=species,
        all_species=pc.count_distinct(annotated.hits["scientific_name"]).as_py(),
        zero_shot="zero-shot" in pc.unique(annotated.hits["method"]).to_pylist(),
        reasons=sorted(reasons.items()),
        quarantine=annotated.quarantine.to_pylist()[:200],
        evaluation=evaluation,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _card(
    hit: dict[str, Any],
    archive: str,
    channel: str,
    recorded_hz: int,
    thumbnails: dict[str, bytes],
    credits: dict[str, str],
) -> dict[str, Any]:
    rate = min(LARGEST_RATE_HZ, max((r for r in (8000, 16000, 22050, 32000) if r <= recorded_hz), default=8000))
    card: dict[str, Any] = hit | {"picture": None, "sound": None, "top_khz": rate / 2000, "photographs": []}
    try:
        with open_audio(urls.below(archive, hit["recording"])) as reader:
            samples = read_mono(reader, hit["start_s"], hit["end_s"], rate, channel)
    except AudioError:
        samples = np.zeros(0, np.float32)  # the recording went away since it was annotated
    if len(samples):
        card["picture"] = _inline(spectrogram_webp(samples, rate), "image/webp")
        card["sound"] = _inline(mp3(samples, rate), "audio/mpeg")
    for image in hit["images"]:
        data = thumbnails.get(image["image_id"])
        if data:
            card["photographs"].append(
                {
                    "picture": _inline(data, "image/jpeg"),
                    "score": image["score"],
                    "credit": credits.get(image["image_id"], ""),
                }
            )
    return card


def _credit(row: dict[str, Any]) -> str:
    return " · ".join(row[name] for name in ("rights_holder", "license", "source") if row[name])


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
