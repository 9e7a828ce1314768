"""What a recorder's clock says, and what that is in UTC.

A wrong offset is worse than none: one that no place keeps is some other number, and leaves the time local.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from songsight.errors import UserError

_QUARTERS = (0, 15, 30, 45)  # minutes of the offsets in use
_UNSET = ((datetime(1970, 1, 1), 366), (datetime(1980, 1, 1), 366), (datetime(2000, 1, 1), 31))
"""Where clocks begin that nobody set (Unix, GPS and FAT, most chips), and how many days behind it are doubted."""

OFFSET = r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d\d?)(?::?(?P<minutes>\d\d))?"
_SAID = re.compile(
    r"(?P<year>\d{4})[-/]?(?P<month>\d\d?)[-/]?(?P<day>\d\d?)[T ]+"
    r"(?P<hour>\d\d?):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?(?!\d)(?P<rest>.*)"
)


def parse_zone(zone: str | None) -> tzinfo | None:
    """A time zone from an IANA name (`Europe/Berlin`) or an offset (`+05:30`, `-0400`); None for None or "".

    Raises:
        UserError: neither of the two.
    """
    if not zone:
        return None
    given = re.fullmatch(r"([+-])(\d{1,2}):?(\d{2})?", zone)
    try:
        size = timedelta(hours=int(given[2]), minutes=int(given[3] or 0)) if given else timedelta()
        if given and (size > timedelta(hours=14) or int(given[3] or 0) > 59):
            raise ValueError
        return timezone(-size if given[1] == "-" else size) if given else ZoneInfo(zone)
    except (ValueError, OSError, KeyError):  # ZoneInfo's "not found" is a KeyError
        raise UserError(
            f"{zone!r} is not a time zone: it can be a name such as Europe/Berlin or an offset such as +05:30"
        ) from None


def offset(sign: str, hours: str, minutes: str | None) -> tzinfo | None:
    """The zone of an offset, if some place keeps it: -12:00 to +14:00 in quarters of an hour, and not -00:00."""
    size = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if int(minutes or 0) not in _QUARTERS or size > timedelta(hours=12 if sign == "-" else 14):
        return None
    if sign == "-":
        return timezone(-size) if size else None
    return timezone(size)


def moment(parts: Mapping[str, str | None]) -> datetime | None:
    """The time that year, month, day, hour, minute, second and fraction (digits) make; None for a month 13 or so.

    A second or fraction that is not there is 0. 24:00:00 is the end of the day, as ISO 8601 has it.
    """
    year, month, day, hour, minute, second = (
        int(parts.get(name) or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    micro = int(f"{re.sub(r'[^0-9]', '', parts.get('fraction') or ''):0<6}"[:6])
    late = (hour, minute, second) == (24, 0, 0)
    try:
        return datetime(year, month, day, 0 if late else hour, minute, second, micro) + timedelta(days=late)
    except (ValueError, OverflowError):
        return None


def said(text: str) -> datetime | None:
    """The time in a field of metadata, with its offset if it has one: ISO 8601, and what recorders make of it.

    That is a space for the T, an offset of one digit (`-5:00`) or behind `UTC`, a month of one digit. A day alone is
    None: it is less than a file's name may tell.
    """
    match = _SAID.fullmatch(text.strip())
    start = moment(match.groupdict()) if match else None
    if match is None or start is None:
        return None
    rest = match["rest"].strip(" ()")
    if rest.upper() in ("AM", "PM"):
        return None
    behind = re.fullmatch(OFFSET, rest)
    zone = (
        UTC
        if rest.upper() in ("Z", "UTC", "GMT")
        else offset(*behind.group("sign", "hours", "minutes"))
        if behind
        else None
    )
    return start.replace(tzinfo=zone)


def to_utc(start: datetime | None, given: tzinfo | None) -> tuple[datetime | None, str]:
    """A time in UTC, None while its zone is not known, and what to know about the clock that said it, "" or a line.

    Args:
        start: what the clock said, with its own zone or without one.
        given: the zone of a clock without one.
    """
    if start is None:
        return None, ""
    doubt = _doubt(start.replace(tzinfo=None))
    if start.tzinfo is None and given is not None:
        start, changed = start.replace(tzinfo=given), start
        if start.utcoffset() != start.replace(fold=1).utcoffset() and not doubt:
            there = start.astimezone(UTC).astimezone(given).replace(tzinfo=None) == changed
            doubt = f"an hour that {given} {'had twice' if there else 'left out'}: read by the clock before the change"
    if start.tzinfo is None:
        return None, doubt
    try:
        return start.astimezone(UTC), doubt
    except OverflowError:  # the first or last day of the calendar
        return None, doubt


def _doubt(local: datetime) -> str:
    day = timedelta(days=1)
    if any(first - day <= local < first + days * day for first, days in _UNSET):
        return f"the clock was not set: it says {local.year}"
    if local > datetime.now(UTC).replace(tzinfo=None) + 2 * day:
        return f"the clock was not set right: it says {local.year}, and now is before that"
    return ""
