"""Names of recorders: those of the documentation's table, and what looks like them and is something else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from inference.archive import clocks, names
from inference.archive.recorders import Metadata, origin

DOCS = (Path(__file__).parents[3] / "docs" / "annotate.md").read_text()
TABLE = DOCS.split("| name | of | local time | offset | place |\n")[1].split("\n\n")[0].splitlines()[1:]


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_the_documentation(row: str) -> None:
    shown, _, local, offset, place = (cell.strip() for cell in row.strip("|").split("|"))
    for name in re.findall(r"`([^`]+\.[A-Za-z0-9]{3,4})`", shown):
        if name.startswith("…"):
            continue
        found = origin(f"archive/site/{name}")
        assert found.start_local == (datetime.fromisoformat(local) if local else None)
        assert found.start_utc == (datetime.fromisoformat(f"{local}{offset}") if offset else None)
        assert (found.latitude, found.longitude) == (tuple(map(float, place.split())) if place else (None, None))
        assert found.note == ""


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("20190309T020000+0930", "+09:30"),
        ("20190309T020000.25-0330", "-03:30"),
        ("20190309T020000-03:00", "-03:00"),
        ("2019-03-09T02-00-00-03-00", "-03:00"),  # a file system that takes no colons
        ("2019-03-09_02.00.00+05.45", "+05:45"),
        ("a_20190309_020000+10_007", "+10:00"),
        ("a_20190309_020000_UTC+5:30", "+05:30"),
        ("2019-03-09-02-00-00-GMT", "+00:00"),
        ("20190309T020000Z-1", "+00:00"),
        ("20190309T020000+1000-27.3866+152.8761", "+10:00"),
        ("a_20190309_020000-0001", ""),
        ("a_20190309_020000-0000", ""),
        ("a_20190309_020000-1345", ""),  # to -12:00, the other way to +14:00
        ("a_20190309_020000+1430", ""),
        ("20190309T020000-01", ""),
        ("2019-03-09_02-00-00-03-00", ""),
        ("20190309_020000-0400AF31", ""),
        ("20190309_020000Zoo", ""),
        ("20190309_020000_-27.3866+152.8761", ""),
        ("20190309_020000_+13-090", ""),
        ("robin_7p_20190309T020000Z", ""),
    ],
)
def test_offsets(name: str, offset: str) -> None:
    start = names.start(name)
    assert start is not None
    assert start.replace(microsecond=0, tzinfo=None) == datetime(2019, 3, 9, 2)
    assert (start.isoformat()[-6:] if start.tzinfo else "") == offset


@pytest.mark.parametrize(
    ("name", "micros"),
    [
        ("20190309T020000.5", 500_000),
        ("20190309T020000,123456789", 123_456),
        ("20190309T020000123Z", 123_000),
        ("a_20190309_020000.250", 250_000),
        ("a_20190309_020000_250", 250_000),
        ("a_20190309_020000_0250", 0),
        ("a_20190309_020000.2", 0),  # the second copy
        ("20190309_020000.5AFCD4F4", 0),
        ("20190309T020000_00600", 0),
    ],
)
def test_fractions(name: str, micros: int) -> None:
    start = names.start(name)
    assert start is not None
    assert start.replace(tzinfo=None) == datetime(2019, 3, 9, 2, microsecond=micros)


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("20190308_20190309_020000", datetime(2019, 3, 9, 2)),  # set out, and recorded
        ("20190308_240000", datetime(2019, 3, 9)),
        ("040506_070809_20190309_020000", datetime(2019, 3, 9, 2)),
        ("Recording 2019-03-09 at 02.00.00", datetime(2019, 3, 9, 2)),
        ("hydro_190309T020000Z", datetime(2019, 3, 9, 2)),
        ("SB01_1678032935_190309020000", datetime(2019, 3, 9, 2)),
    ],
)
def test_times(name: str, local: datetime) -> None:
    start = names.start(name)
    assert start is not None
    assert start.replace(tzinfo=None) == local


@pytest.mark.parametrize(
    "name",
    [
        "20190309_0200",
        "20190309_001",
        "190309_0001",
        "x_201203090200",  # four digits of the year without seconds, or two with them
        "042319_203600",
        "990309_020000",
        "123456_654321",
        "55063123",
        "SITE_55063123",
        "robin_5dfb6dfc",
        "5dfb6dfc-ef1d-4159-b120-a8dec3f6334e",
        "0001_2e1709263_Test0001",
        "20190309_24000",
        "20190309_240001",
        "XC123456_190309",
    ],
)
def test_numbers_that_are_no_time(name: str) -> None:
    assert names.start(name) is None


def test_digits_alone_are_a_time_where_the_file_says_that_it_is_of_an_audiomoth() -> None:
    said = Metadata(artist="AudioMoth 24E144055E080032")
    assert origin("58063123.WAV", said).start_utc == datetime(2016, 10, 18, 14, 26, 43, tzinfo=UTC)
    assert origin("58063123.WAV").start_source == "none"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("20190309T020000Z_-8.0000+145.4222", (-8, 145.4222)),
        ("x_-08.0000+000.0000", (-8, 0)),
        ("x_(27.2819, 90.1361)", (27.2819, 90.1361)),
        ("x_N52.1234_W004.5678", (52.1234, -4.5678)),
        ("x_33.8688S 151.2093E", (-33.8688, 151.2093)),
        ("x_+13-090", (13, -90)),
        ("clip_12.5_15.0", None),
        ("x_-98.1234+145.4222", None),
        ("x_3-10+25", None),
        ("S1.5", None),
    ],
)
def test_places(name: str, place: tuple[float, float] | None) -> None:
    assert names.place(name) == place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014-04-02 22:59:14-5:00", "2014-04-02T22:59:14-05:00"),
        ("2014-04-02 22:59:14 -0500", "2014-04-02T22:59:14-05:00"),
        ("2014-04-02T22:59:14.5+5:45", "2014-04-02T22:59:14.500000+05:45"),
        ("2014-4-2 2:59:14 (UTC+2)", "2014-04-02T02:59:14+02:00"),
        ("20140402T225914Z", "2014-04-02T22:59:14+00:00"),
        ("2014-04-02 22:59:14 UTC", "2014-04-02T22:59:14+00:00"),
        ("2014-04-02 22:59:14.000", "2014-04-02T22:59:14"),
        ("2014-04-02 22:59:14+25:00", "2014-04-02T22:59:14"),
        ("2014-04-02 22:59:14-03:17", "2014-04-02T22:59:14"),
        ("2014-04-02 22:59:14 CEST", "2014-04-02T22:59:14"),
    ],
)
def test_fields_of_metadata(text: str, expected: str) -> None:
    start = clocks.said(text)
    assert start is not None
    assert start.isoformat() == expected


@pytest.mark.parametrize(
    "text", ["", "2014-04-02", "2014-04-32 10:00:00", "02/04/2014 10:00", "2014-04-02 10:59:14 PM"]
)
def test_fields_that_are_no_time(text: str) -> None:
    assert clocks.said(text) is None


@pytest.mark.parametrize(
    ("name", "zone", "utc", "word"),
    [
        ("20241027_023000", "Europe/Berlin", datetime(2024, 10, 27, 0, 30), "had twice"),
        ("20240331_023000", "Europe/Berlin", datetime(2024, 3, 31, 1, 30), "left out"),
        ("20241027_033000", "Europe/Berlin", datetime(2024, 10, 27, 2, 30), ""),
        ("20241027_023000", "+01:00", datetime(2024, 10, 27, 1, 30), ""),
        ("20241027_023000+0100", "Europe/Berlin", datetime(2024, 10, 27, 1, 30), ""),
        ("19700101_000010", None, None, "not set: it says 1970"),
        ("19691231_190010", None, None, "not set: it says 1969"),
        ("20000103_120000", "UTC", datetime(2000, 1, 3, 12), "not set: it says 2000"),
        ("20000301_120000", "UTC", datetime(2000, 3, 1, 12), ""),
        ("20990301_120000", "UTC", datetime(2099, 3, 1, 12), "not set right: it says 2099"),
    ],
)
def test_doubtful_clocks(name: str, zone: str | None, utc: datetime | None, word: str) -> None:
    found = origin(f"{name}.wav", timezone=zone)
    assert found.start_utc == (utc.replace(tzinfo=UTC) if utc else None)
    assert found.start_local == datetime.strptime(name[:15], "%Y%m%d_%H%M%S")
    assert word in found.note
    assert bool(word) == bool(found.note)


def test_a_place_without_a_fix_is_left_out() -> None:
    lost = Metadata(guano={"Loc Position": "0.0000 0.0000"})
    found = origin("a_19700101_000010.wav", lost)
    assert (found.latitude, found.longitude) == (None, None)
    assert found.note == "the clock was not set: it says 1970; the place was 0 0, without a fix: left out"
    assert origin("a_-00.0000+000.0000.wav").note == "the place was 0 0, without a fix: left out"
    named = origin("a_-30.1228+145.4222.wav", lost)
    assert (named.latitude, named.longitude, named.note) == (-30.1228, 145.4222, "")
    assert origin("a.wav", Metadata(wamd={6: "WGS84,0.0,N,73.5,W"})).longitude == -73.5


def test_recorders_by_their_names() -> None:
    assert [names.recorder(name) for name in ("671629352.181204100002", "20190704T180000_614E06F3", "x")] == [
        "SoundTrap",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("stem", "hour"),
    [
        ("2024-05-14 11.30.00 pm", 23),
        ("Recording 2024-05-14 at 08.30.00 PM", 20),
        ("2024-05-14_12-30-00_AM", 0),
        ("SITE_20240514_123000_PM", 12),
        ("SITE_20240514_153000_PM", 15),
    ],
)
def test_clocks_of_twelve_hours(stem: str, hour: int) -> None:
    assert names.start(stem) == datetime(2024, 5, 14, hour, 30)
