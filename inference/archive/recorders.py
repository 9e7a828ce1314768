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
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import IO
from zoneinfo import ZoneInfo

from inference.archive import wamd
from songsight.audio.header import Chunk, chunks
from songsight.errors import UserError
from songsight.store import urls

_MOST_METADATA_BYTES = 1 << 16


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

    `recorder` is AudioMoth, Song Meter, Swift, OwlSense or "". `start_source` is guano, wamd, comment, filename,
    bext or none. `start_local` is the wall clock of the recorder, without a zone; `start_utc` has the zone UTC, and is
    None while the recorder's zone is unknown. Latitude and longitude are in degrees, north and east.
    """

    recorder: str = ""
    start_source: str = "none"
    start_local: datetime | None = None
    start_utc: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None


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
    name = path.rstrip("/").rsplit("/", 1)[-1]
    stem = name.rsplit(".", 1)[0]
    source, start = "none", None
    for word, found in (
        ("guano", _guano_start(metadata.guano)),
        ("wamd", wamd.start(metadata.wamd)),
        ("comment", _comment_start(metadata.comment)),
        ("filename", _name_start(stem)),
        ("bext", _bext_start(metadata.originated)),
    ):
        if found is not None:
            source, start = word, found
            break
    place = wamd.position(metadata.wamd)
    latitude, longitude = (
        _guano_position(metadata.guano) or (place and _position(*place)) or _name_position(name) or (None, None)
    )
    return Origin(
        recorder=_recorder(stem, metadata),
        start_source=source,
        start_local=start.replace(tzinfo=None) if start is not None else None,
        start_utc=_to_utc(start, given),
        latitude=latitude,
        longitude=longitude,
    )


def parse_zone(zone: str | None) -> tzinfo | None:
    """A time zone from an IANA name (`Europe/Berlin`) or an offset (`+05:30`, `-0400`); None for None or "".

    Raises:
        UserError: neither of the two.
    """
    if not zone:
        return None
    offset = re.fullmatch(r"([+-])(\d{1,2}):?(\d{2})?", zone)
    try:
        return _offset(*offset.groups()) if offset else ZoneInfo(zone)
    except (ValueError, OSError, KeyError):  # ZoneInfo's "not found" is a KeyError
        raise UserError(
            f"{zone!r} is not a time zone: it can be a name such as Europe/Berlin or an offset such as +05:30"
        ) from None


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
    r"(?P<sign>)"
)


def _bext_start(originated: str) -> datetime | None:
    match = _ORIGINATED.fullmatch(originated)
    return _moment(match, None) if match else None


def _guano_start(guano: dict[str, str]) -> datetime | None:
    said = re.sub(r"([+-])(\d)(:\d\d)$", r"\g<1>0\2\3", guano.get("Timestamp", ""))  # +1:00, which ISO 8601 has not
    try:
        return datetime.fromisoformat(said) if ":" in said else None  # a day alone is less than a file's name may tell
    except ValueError:
        return None


def _guano_position(guano: dict[str, str]) -> tuple[float, float] | None:
    values = guano.get("Loc Position", "").replace(",", " ").split()
    return _position(*values) if len(values) == 2 else None


_COMMENT = re.compile(
    r"Recorded at (?P<hour>\d\d?):(?P<minute>\d\d):(?P<second>\d\d)(?:\.\d+)? "
    r"(?P<day>\d\d?)/(?P<month>\d\d?)/(?P<year>\d{4})"
    r"(?: \((?P<utc>UTC)(?:(?P<sign>[+-])(?P<hours>\d{1,2})(?::(?P<minutes>\d\d))?)?\))?"
)


def _comment_start(comment: str) -> datetime | None:
    match = _COMMENT.search(comment)
    if match is None:
        return None
    return _moment(match, UTC if match["utc"] and not match["sign"] else None)


_DATE = r"(?P<year>(?:19|20)\d\d)-?(?P<month>[ \d]\d)-?(?P<day>[ \d]\d)"
_TIME = r"(?P<hour>[ \d]\d)[-:]?(?P<minute>[ \d]\d)[-:]?(?P<second>[ \d]\d)"
# Behind the time: T marks AudioMoth's triggered recordings, Z is UTC, and an offset may follow an underscore, which one
# of hours alone must: a -01 may be a number.
_HOURS = r"(?P<hours>\d\d)(?::?(?P<minutes>\d\d)|(?<=_[+-](?:0\d|1[0-4])))(?![\d.])"
_OFFSET = rf"(?:(?P<utc>Z)|T|_?(?P<sign>[+-]){_HOURS})?"
_NAME = re.compile(rf"(?<!\d){_DATE}(?:_T|T|_|\$| |-){_TIME}(?!\d){_OFFSET}")
_PARTED_NAME = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)_(?P<month>\d\d)_(?P<day>\d\d)_(?P<hour>\d\d)_(?P<minute>\d\d)_(?P<second>\d\d)(?!\d)"
    r"(?P<sign>)"
)
_HEX_NAME = re.compile(r"(?:.*_)?(?P<seconds>[0-9A-F]{8}|[0-9a-f]{8})T?")
_HEX_YEARS = range(2014, 2038)  # AudioMoth's first year; and a date such as 20190522 read as hexadecimal is before it


def _name_start(stem: str) -> datetime | None:
    for match in (*_NAME.finditer(stem), *_PARTED_NAME.finditer(stem)):
        moment = _moment(match, UTC if match.groupdict().get("utc") else None)
        if moment is not None:
            return moment
    epoch = _HEX_NAME.fullmatch(stem)
    if epoch is not None:
        moment = datetime.fromtimestamp(int(epoch["seconds"], 16), UTC)
        if moment.year in _HEX_YEARS:
            return moment
    return None


def _moment(match: re.Match[str], zone: tzinfo | None) -> datetime | None:
    """The time in a match's named groups, with its own offset if it has one; None for a month 13 and the like."""
    numbers = [int(match[part]) for part in ("year", "month", "day", "hour", "minute", "second")]
    try:
        if match["sign"]:
            zone = _offset(match["sign"], match["hours"], match["minutes"])
        return datetime(*numbers, tzinfo=zone)  # type: ignore[arg-type,misc]
    except ValueError:
        return None


def _offset(sign: str, hours: str, minutes: str | None) -> tzinfo:
    """Raises ValueError for more than 14 hours, which no place on Earth has."""
    size = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if size > timedelta(hours=14) or int(minutes or 0) > 59:
        raise ValueError("not an offset")
    return timezone(-size if sign == "-" else size)


def _to_utc(start: datetime | None, given: tzinfo | None) -> datetime | None:
    if start is None or (start.tzinfo is None and given is None):
        return None
    try:
        return (start if start.tzinfo is not None else start.replace(tzinfo=given)).astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar
        return None


# Two decimal numbers in brackets, or in the underscores that some systems put in their place.
_NAME_POSITION = re.compile(r"[\[_]([+-]?\d{1,2}\.\d+)(?:[ ,]+|(?=[+-]))([+-]?\d{1,3}\.\d+)[\]_]")


def _name_position(name: str) -> tuple[float, float] | None:
    match = _NAME_POSITION.search(name)
    return _position(*match.groups()) if match else None


def _position(latitude: str, longitude: str) -> tuple[float, float] | None:
    try:
        position = float(latitude), float(longitude)
    except ValueError:
        return None
    return position if abs(position[0]) <= 90 and abs(position[1]) <= 180 else None


_MAKERS = (
    ("AudioMoth", re.compile(r"AudioMoth|Open Acoustic Devices", re.IGNORECASE)),
    ("Song Meter", re.compile(r"Wildlife Acoustics|Song ?Meter|\bSM(?:[234]|Mini|U)", re.IGNORECASE)),
    ("Swift", re.compile(r"\bSwift", re.IGNORECASE)),
    ("OwlSense", re.compile(r"\bOwlSense", re.IGNORECASE)),
)
_NAMES = (
    ("AudioMoth", re.compile(r"(?:^|_)[0-9A-F]{16}_\d{8}_\d{6}T?$")),
    ("AudioMoth", re.compile(r"(?:^|_)\d{8}_\d{6}T$")),
    # A serial number (SMM03873, S4A03895, 2MM01234), the dollar sign of a GPS clock, or the channels (_0+1_).
    ("Song Meter", re.compile(r"(?:^|_)(?:SM[A-Z0-9]|S[34][A-Z]|2M[A-Z])\d{4,}_(?:.*_)?\d{8}[_$]\d{6}")),
    ("Song Meter", re.compile(r"_\d{8}\$\d{6}|_[01]\+[01]_(?:.*_)?\d{8}_\d{6}")),
    ("Swift", re.compile(r"(?:^|_)Swift[A-Za-z]*\d*_\d{8}_\d{6}", re.IGNORECASE)),
    ("OwlSense", re.compile(r"(?:^|_)\d+_\d{4}-\d\d-\d\d_T\d\d-\d\d-\d\d$")),
)


def _recorder(stem: str, metadata: Metadata) -> str:
    made = " ".join((metadata.guano.get("Make", ""), metadata.guano.get("Model", "")))
    for text in (made, wamd.model(metadata.wamd), metadata.comment, metadata.artist):
        for recorder, pattern in _MAKERS:
            if pattern.search(text):
                return recorder
    for recorder, pattern in _NAMES:
        if pattern.search(stem):
            return recorder
    if _HEX_NAME.fullmatch(stem) and _NAME.search(stem) is None and _name_start(stem) is not None:
        return "AudioMoth"
    return ""
