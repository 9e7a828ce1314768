"""Which recorder made a file, when it started, and where it stood.

A recorder says so in up to five places, here in order of trust: a GUANO chunk (guano-md.org: UTF-8 lines `key: value`
in the RIFF chunk `guan`), Wildlife Acoustics' own chunk (`wamd`), a comment (RIFF `LIST`/`INFO`, field `ICMT`, as
AudioMoth writes it), the file's name, and the Broadcast Wave chunk `bext`, which editors write too.
A time without a zone stays local: it becomes UTC only with a zone that the user gives.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from inference.archive import clocks, names, wamd
from inference.archive.clocks import parse_zone
from songsight.audio.header import Chunk, chunks
from songsight.store import urls

_MOST_METADATA_BYTES = 1 << 16
_NO_FIX = "the place was 0 0, without a fix: left out"


@dataclass(frozen=True)
class Metadata:
    """What the chunks of a WAV or AIFF file say: GUANO's fields, comment and artist, Wildlife Acoustics' own, and the
    date and time of a Broadcast Wave."""

    guano: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    artist: str = ""
    wamd: dict[int, str] = field(default_factory=dict)
    originated: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a recording comes from.

    `recorder` is AudioMoth, Song Meter, Swift, OwlSense, another that `names.recorder` knows, or "". `start_source` is
    guano, wamd, comment, filename, bext or none. `start_local` is the wall clock of the recorder, without a zone;
    `start_utc` has the zone UTC, and is None while the recorder's zone is unknown. Latitude and longitude are in
    degrees, north and east. `note` says what is to be doubted: a clock that was not set, an hour that a change of
    clocks doubled or left out, a place of 0 0.
    """

    recorder: str = ""
    start_source: str = "none"
    start_local: datetime | None = None
    start_utc: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None
    note: str = ""


def identify(url: str, timezone: str | None = None) -> Origin:
    """The origin of a recording, from its name and, by range reads of a few hundred bytes, its chunks.

    Args:
        url: a local path or any URL that `songsight.store.urls` knows.
        timezone: the recorders' time zone, for times that come without one; see `parse_zone`.

    Raises:
        UserError: the zone is unknown.
        OSError: the file cannot be read.
    """
    with urls.open_read(url, urls.HEADER_BLOCK_BYTES) as handle:
        size = handle.seek(0, os.SEEK_END)
        return origin(url, read_metadata(handle, size), timezone)


def origin(path: str, metadata: Metadata | None = None, timezone: str | None = None) -> Origin:
    """Like `identify`, from a name and metadata that are already at hand; reads nothing.

    Raises:
        UserError: the zone is unknown.
    """
    metadata = metadata or Metadata()
    given = parse_zone(timezone)
    stem = path.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    maker = _maker(metadata)
    source, start = "none", None
    for word, found in (
        ("guano", clocks.said(metadata.guano.get("Timestamp", ""))),
        ("wamd", wamd.start(metadata.wamd)),
        ("comment", _comment_start(metadata.comment)),
        ("filename", names.start(stem, maker == "AudioMoth")),
        ("bext", _bext_start(metadata.originated)),
    ):
        if found is not None:
            source, start = word, found
            break
    utc, doubt = clocks.to_utc(start, given)
    position = wamd.position(metadata.wamd)
    places = [_guano_position(metadata.guano), position and names.degrees(*position), names.place(stem)]
    said = [place for place in places if place]
    latitude, longitude = next((place for place in said if any(place)), (None, None))
    return Origin(
        recorder=maker or names.recorder(stem),
        start_source=source,
        start_local=start.replace(tzinfo=None) if start is not None else None,
        start_utc=utc,
        latitude=latitude,
        longitude=longitude,
        note="; ".join(filter(None, (doubt, _NO_FIX if said and latitude is None else ""))),
    )


def read_metadata(handle: IO[bytes], size: int) -> Metadata:
    """What the chunks of a RIFF, RF64, W64 or AIFF file say, before or behind its sound, which is not read.

    Returns an empty `Metadata` for any other file.

    Raises:
        OSError: the storage failed.
    """
    guano: dict[str, str] = {}
    said: dict[bytes, str] = {}
    broadcast: dict[bytes, str] = {}  # where nothing else says it
    maker: dict[int, str] = {}
    for chunk in chunks(handle, size):
        name = chunk.name.upper()  # Wave64 has them in lower case
        if name == b"GUAN":
            guano = _parse_guano(_content(handle, chunk)) | guano  # of joined files the first counts
        elif name == b"LIST":
            said = _parse_info(_content(handle, chunk)) | said
        elif name == b"WAMD":
            maker = wamd.parse(_content(handle, chunk)) | maker
        elif name == b"BEXT":
            broadcast = _parse_bext(_content(handle, chunk)) | broadcast
        elif name in _AIFF_TEXTS:
            at = 10 if name == b"COMT" else 0  # behind a count, and the first one's time, marker and length
            said = {_AIFF_TEXTS[name]: _text(_content(handle, chunk)[at:])} | said
    said = broadcast | {field: text for field, text in said.items() if text}
    return Metadata(guano, said.get(b"ICMT", ""), said.get(b"IART", ""), maker, said.get(b"", ""))


_AIFF_TEXTS = {b"ANNO": b"ICMT", b"COMT": b"ICMT", b"AUTH": b"IART"}


def _content(handle: IO[bytes], chunk: Chunk) -> bytes:
    handle.seek(chunk.offset)
    return handle.read(min(chunk.held_bytes, _MOST_METADATA_BYTES))


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def _parse_guano(content: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(content).splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _parse_info(content: bytes) -> dict[bytes, str]:
    """The fields of a `LIST` chunk of type `INFO`: each a name, a size and a text that is padded to an even length."""
    fields: dict[bytes, str] = {}
    if content[:4] != b"INFO":
        return fields
    position = 4
    while position + 8 <= len(content):
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        fields[content[position : position + 4]] = _text(content[position + 8 : position + 8 + size])
        position += 8 + size + size % 2
    return fields


def _parse_bext(content: bytes) -> dict[bytes, str]:
    """Description and originator of a Broadcast Wave (EBU Tech 3285) as a comment and an artist, and when it began."""
    return {b"ICMT": _text(content[:256]), b"IART": _text(content[256:288]), b"": _text(content[320:338])}


_ORIGINATED = re.compile(
    r"(?P<year>(?:19|20)\d\d)\D(?P<month>\d\d)\D(?P<day>\d\d)(?P<hour>\d\d)\D(?P<minute>\d\d)\D(?P<second>\d\d)"
)


def _bext_start(originated: str) -> datetime | None:
    match = _ORIGINATED.fullmatch(originated)
    return clocks.moment(match.groupdict()) if match else None


def _guano_position(guano: dict[str, str]) -> tuple[float, float] | None:
    said = guano.get("Loc Position", "")
    values = said.replace(",", " ").split()
    return names.degrees(*values) if len(values) == 2 else names.place(said)


_COMMENT = re.compile(
    r"Recorded at (?P<hour>\d\d?):(?P<minute>\d\d):(?P<second>\d\d)(?P<fraction>\.\d+)? "
    rf"(?P<day>\d\d?)/(?P<month>\d\d?)/(?P<year>\d{{4}})(?: \((?:(?P<utc>UTC)|{clocks.OFFSET})\))?"
)


def _comment_start(comment: str) -> datetime | None:
    match = _COMMENT.search(comment)
    start = clocks.moment(match.groupdict()) if match else None
    if match is None or start is None:
        return None
    zone = UTC if match["utc"] else None
    return start.replace(tzinfo=clocks.offset(*match.group("sign", "hours", "minutes")) if match["sign"] else zone)


_MAKERS = (
    ("AudioMoth", re.compile(r"AudioMoth|Open Acoustic Devices", re.IGNORECASE)),
    ("Song Meter", re.compile(r"Wildlife Acoustics|Song ?Meter|\bSM(?:[234]|Mini|U)", re.IGNORECASE)),
    ("Swift", re.compile(r"\bSwift", re.IGNORECASE)),
    ("OwlSense", re.compile(r"\bOwlSense", re.IGNORECASE)),
)


def _maker(metadata: Metadata) -> str:
    made = " ".join((metadata.guano.get("Make", ""), metadata.guano.get("Model", "")))
    for text in (made, wamd.model(metadata.wamd), metadata.comment, metadata.artist):
        for recorder, pattern in _MAKERS:
            if pattern.search(text):
                return recorder
    return ""
