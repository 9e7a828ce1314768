"""When, where and by which recorder, as files' names say it; docs/annotate.md has the table of what is known.

A number that is no time must not be taken for one, and a wrong offset is worse than none. So years have four digits but
for SoundTraps and what else writes yymmdd and hhmmss; other orders, which cannot be told from each other, are not
read, and of seconds since 1970 only AudioMoth's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from inference.archive import clocks

# Some firmware of Frontier Labs writes spaces for zeros. BirdNET-Pi has a word, and perhaps a stream, in the middle.
# Looked for ahead, so that a day before a day and a time takes nothing of it.
_FULL = re.compile(
    r"(?<!\d)(?=(?P<year>(?:19|20)\d\d)(?P<dash>[-_.]?)(?P<month>[ \d]\d)(?P=dash)(?P<day>[ \d]\d)"
    r"(?:_?(?P<iso>T)|\$|[ _]at[ _]|-birdnet-(?:.*-)?|[ ._-]{0,3})"
    r"(?P<hour>[ \d]\d)(?P<part>[-:_.;]?)(?P<minute>[ \d]\d)(?:(?P=part)(?P<second>[ \d]\d))?(?P<rest>.*))"
)
_SHORT = re.compile(
    r"(?:(?<![A-Za-z\d])(?P<year>\d\d)(?P<month>\d\d)(?P<day>\d\d)(?:[-_ ]|(?P<iso>T))|"
    # SoundTraps have no gap. Behind an underscore such a number may also be a full year without seconds.
    r"(?:(?<=\.)|(?<=_)(?!201[0-2]))(?P<year_>\d\d)(?P<month_>\d\d)(?P<day_>\d\d))"
    r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?!\d(?!\d\d))"
)
_SHORT_YEARS_FROM = 2005
# Behind the seconds. A T follows where AudioMoth was triggered. `_mmm` is what Song Meters and Kaleidoscope write.
_NO_WORD = r"(?![A-SU-Ya-z\d])"
_FRACTION = re.compile(rf"(?:[.,]\d{{3,9}}|_\d{{3}}){_NO_WORD}")
_ISO_FRACTION = re.compile(rf"(?:[.,]\d{{1,9}}|_\d{{3}}|\d{{6}}|\d{{3}}){_NO_WORD}")
_UTC = re.compile(r"[_ -]?(?:Z(?![A-Za-z\d])|(?:UTC|GMT)(?![A-Za-z\d]|[+-]\d))")
_OFFSET = re.compile(
    r"[_ ]?(?:-?(?:UTC|GMT))?(?P<sign>[+-])(?P<hours>\d\d|\d(?=:))(?P<joint>[-:_.]?)(?P<minutes>\d\d)"
    r"(?![A-Za-z\d]|[.,]\d)"
)
# Hours alone: a -01 behind the time may be a number, and `-27.5` and `+13-090` are places.
_HOURS = re.compile(
    r"(?:_|(?=\+)|[_ -]?(?:UTC|GMT))(?P<sign>[+-])(?P<hours>\d\d|(?<=[TC][+-])\d)(?![A-Za-z\d]|[.,:+-]\d)"
)
_HALF = re.compile(r"[ _.-]?(?P<half>[AaPp])[Mm](?![A-Za-z\d])")
_BIRDNET_GO = re.compile(r"_\d{1,3}p_$")  # its Z is a letter that it puts behind a local time

_HEX = re.compile(r"(?:(?:.*_)?(?P<upper>[0-9A-F]{8})|(?P<lower>[0-9a-f]{8}))T?")
_HEX_YEARS_FROM = 2014  # AudioMoth's first year; and a date such as 20190522 read as hexadecimal is before it


def start(stem: str, audiomoth: bool = False) -> datetime | None:
    """When a recording started, by its file's name without the ending; with a zone if the name has it.

    Args:
        stem: the name.
        audiomoth: whether it is known to be AudioMoth's: eight digits are then seconds since 1970 even if each of
            them is a decimal one, which other loggers count by.
    """
    return _written(stem) or _epoch(stem, audiomoth)


def _written(stem: str) -> datetime | None:
    years = range(_SHORT_YEARS_FROM, datetime.now(UTC).year + 1)
    for match in (*_FULL.finditer(stem), *_SHORT.finditer(stem)):
        said = match.groupdict()
        if match.re is _SHORT:
            said |= {name: said[name] or said[f"{name}_"] for name in ("year", "month", "day")}
            said |= {"year": f"20{said['year']}", "part": "", "rest": stem[match.end() :]}
            if int(said["year"]) not in years:
                continue
        elif not said["second"] and not (said["dash"] and said["part"]):
            continue  # a date and a counter
        moment, zone = _moment(said)
        if moment is not None:
            return moment if _BIRDNET_GO.search(stem[: match.start()]) else moment.replace(tzinfo=zone)
    return None


def _moment(said: dict[str, str | None]) -> tuple[datetime | None, tzinfo | None]:
    """The time of a match, with the fraction and the zone that may stand behind it."""
    rest = said["rest"] or ""
    fraction = (_ISO_FRACTION if said["iso"] else _FRACTION).match(rest) if said["second"] else None
    if fraction:
        said["fraction"], rest = fraction[0], rest[fraction.end() :]
    if re.match(r"\d" if said["second"] else r"[-:]?\d", rest):
        return None, None  # more digits than a time has
    half, hour = _HALF.match(rest), int(said["hour"] or 0)
    if half and 1 <= hour <= 12:  # a clock of twelve hours
        said["hour"], rest = str(hour % 12 + 12 * (half["half"] in "Pp")), rest[half.end() :]
    return clocks.moment(said), _zone(rest, said)


def _epoch(stem: str, audiomoth: bool = False) -> datetime | None:
    match = _HEX.fullmatch(stem)
    digits = (match["upper"] or match["lower"]) if match else "0"
    if digits.isdecimal() and not audiomoth:
        return None
    moment = datetime.fromtimestamp(int(digits, 16), UTC)
    return moment if moment.year in range(_HEX_YEARS_FROM, datetime.now(UTC).year + 1) else None


def _zone(rest: str, said: dict[str, str | None]) -> tzinfo | None:
    if _UTC.match(rest):
        return UTC
    match = _OFFSET.match(rest)
    if match and match["joint"] not in ("", ":"):  # what stands for the colons of the time may stand for this one
        match = match if match["joint"] == said["part"] and (said["iso"] or match["sign"] == "+") else None
    if match:
        return clocks.offset(match["sign"], match["hours"], match["minutes"])
    match = _HOURS.match(rest)
    return clocks.offset(match["sign"], match["hours"], None) if match else None


_DEGREES = r"[+-]?\d{1,3}\.\d+"
_PLACES = (
    # Two decimal numbers in brackets, or in the underscores that some systems put in their place.
    re.compile(rf"[\[(_](?P<lat>{_DEGREES})(?:[ ,]+|(?=[+-]))(?P<lon>{_DEGREES})[\])_]"),
    # With both signs no bracket is needed; ISO 6709 has two and three digits before the point, which may be the end.
    re.compile(
        r"(?:^|[^\d.]|[+-]\d{4}|\d{6})(?P<lat>[+-]\d{1,2}\.\d{2,})[ ,_]?(?P<lon>[+-]\d{1,3}\.\d{2,})|"
        r"(?:^|[_ ])(?P<lat2>[+-]\d\d(?:\.\d+)?)(?P<lon2>[+-]\d{3}(?:\.\d+)?)(?!\d)"
    ),
    re.compile(r"(?<![A-Za-z])(?P<ns>[NS])(?P<lat>\d{1,2}\.\d+)[ ,_]*(?P<ew>[EW])(?P<lon>\d{1,3}\.\d+)"),
    re.compile(
        r"(?<![\d.])(?P<lat>\d{1,2}\.\d+)°? ?(?P<ns>[NS])[ ,_]*(?P<lon>\d{1,3}\.\d+)°? ?(?P<ew>[EW])(?![A-Za-z])"
    ),
)


def place(text: str) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, north and east, in a name or a field."""
    for pattern in _PLACES:
        for match in pattern.finditer(text):
            said = match.groupdict()
            latitude, longitude = said["lat"] or said["lat2"], said["lon"] or said["lon2"]
            south, west = said.get("ns") == "S", said.get("ew") == "W"
            if (found := degrees("-" * south + latitude, "-" * west + longitude)) is not None:
                return found
    return None


def degrees(latitude: str, longitude: str) -> tuple[float, float] | None:
    """Two numbers as a place; None where they are none, or not on this planet."""
    try:
        found = float(latitude), float(longitude)
    except ValueError:
        return None
    return found if abs(found[0]) <= 90 and abs(found[1]) <= 180 else None


_RECORDERS = (
    ("AudioMoth", re.compile(r"(?:^|_)[0-9A-F]{16}_\d{8}_\d{6}T?$")),
    ("AudioMoth", re.compile(r"(?:^|_)\d{8}_\d{6}T$")),
    # A serial number (SMM03873, S4A03895, 2MM01234), the dollar sign of a GPS clock, or the channels (_0+1_).
    ("Song Meter", re.compile(r"(?:^|_)(?:SM[A-Z0-9]|S[34][A-Z]|2M[A-Z])\d{4,}_(?:.*_)?\d{8}[_$]\d{6}")),
    ("Song Meter", re.compile(r"_\d{8}\$\d{6}|_[01]\+[01]_(?:.*_)?\d{8}_\d{6}")),
    ("Swift", re.compile(r"(?:^|_)Swift[A-Za-z]*\d*_\d{8}_\d{6}", re.IGNORECASE)),
    ("OwlSense", re.compile(r"(?:^|_)\d+_\d{4}-\d\d-\d\d_T\d\d-\d\d-\d\d$")),
    ("Frontier Labs", re.compile(r"^S\d{8}T[\d.]+(?:Z|[+-]\d{4})_E\d{8}T")),
    ("SoundTrap", re.compile(r"^\d{3,10}\.\d{12}$")),
    ("icListen", re.compile(r"^ICLISTEN", re.IGNORECASE)),
    ("AMAR", re.compile(r"^AMAR\d+\.")),
    ("BirdNET-Pi", re.compile(r"\d{4}-\d\d-\d\d-birdnet-")),
    ("BirdNET-Go", re.compile(r"_\d{1,3}p_\d{8}T\d{6}Z")),
)


def recorder(stem: str) -> str:
    """Which recorder names its files so; "" where several do, or none that is known."""
    found = next((name for name, pattern in _RECORDERS if pattern.search(stem)), "")
    return found or ("AudioMoth" if _written(stem) is None and _epoch(stem) is not None else "")
