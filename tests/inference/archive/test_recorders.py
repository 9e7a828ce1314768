"""Names and chunks as recorders write them give the recorder, the clock and the place."""

from __future__ import annotations

import io
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

from inference.archive.recorders import Metadata, Origin, identify, origin, parse_zone, read_metadata
from songsight.errors import UserError

SHARED = Path(os.environ.get("SONGSIGHT_SHARED", Path(__file__).parents[4] / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no recordings at {SHARED}: set SONGSIGHT_SHARED to a folder that has data/ in it"
)

GUANO = (
    "GUANO|Version:1.0\nMake:Open Acoustic Devices\nModel:AudioMoth\nTimestamp:{}\nLoc Position:52.146196 -4.474776\n"
)
COMMENT = "Recorded at 19:31:30 03/09/2024 ({}) by AudioMoth 24E144055E080032 at medium gain while battery was 4.3V."


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("name", "recorder", "local", "start_utc"),
    [
        ("20220719_031500.WAV", "", datetime(2022, 7, 19, 3, 15), None),
        ("20220719/20220719_031500T.WAV", "AudioMoth", datetime(2022, 7, 19, 3, 15), None),
        ("24E144055E080032_20220719_031500.WAV", "AudioMoth", datetime(2022, 7, 19, 3, 15), None),
        ("5DFB6DFC.WAV", "AudioMoth", datetime(2019, 12, 19, 12, 33), utc(2019, 12, 19, 12, 33)),
        ("SMM03873_20220719_000000.wav", "Song Meter", datetime(2022, 7, 19), None),
        ("SMM03873_20220719$000000.wav", "Song Meter", datetime(2022, 7, 19), None),
        ("S4A03895_20190522_013000.wav", "Song Meter", datetime(2019, 5, 22, 1, 30), None),
        ("SBT-6-76-18_0+1_0_20160621_080000.wav", "Song Meter", datetime(2016, 6, 21, 8), None),
        ("SwiftOne_20220719_000000_-0400.wav", "Swift", datetime(2022, 7, 19), utc(2022, 7, 19, 4)),
        ("55063_2024-11-27_T16-47-33.wav", "OwlSense", datetime(2024, 11, 27, 16, 47, 33), None),
        ("20190309T020000+1000_REC.flac", "", datetime(2019, 3, 9, 2), utc(2019, 3, 8, 16)),
        ("20190309T020000Z.flac", "", datetime(2019, 3, 9, 2), utc(2019, 3, 9, 2)),
        ("site7_2019-03-09 02:00:00.wav", "", datetime(2019, 3, 9, 2), None),
        ("20190309_020000_-27.5.wav", "", datetime(2019, 3, 9, 2), None),  # no offset: a latitude
        ("20190309_020000.wav.flac", "", datetime(2019, 3, 9, 2), None),
    ],
)
def test_names(name: str, recorder: str, local: datetime, start_utc: datetime | None) -> None:
    found = origin(f"s3://bucket/site/{name}")
    assert found == Origin(recorder, "filename", local, start_utc)


@pytest.mark.parametrize(
    "name",
    [
        "20221332_000000.wav",  # month 13
        "20230229_000000.wav",
        "20220719_246060.wav",
        "20190522.wav",  # a date alone, and no time in hexadecimal either
        "XC564654-200602-006_NR5N6_20h14_Sturtur.flac",
        "120220719_0000001.wav",
        "recording.wav",
        "DEADBEEF.WAV",  # the year 2088
        ".wav",
        "",
    ],
)
def test_names_without_a_time(name: str) -> None:
    assert origin(name) == Origin()


def test_the_first_valid_time_in_a_name() -> None:
    assert origin("20221332_000000_20220719_031500.wav").start_local == datetime(2022, 7, 19, 3, 15)


def test_spaces_for_zeros_and_a_place_in_the_name() -> None:
    found = origin("201906 7T095935+1000_REC [19.2144 152.8811].flac")
    assert found == Origin(
        "", "filename", datetime(2019, 6, 7, 9, 59, 35), utc(2019, 6, 6, 23, 59, 35), 19.2144, 152.8811
    )
    assert origin("20160809_063108_Dawn _1.4647 116.9136_.wav").latitude == 1.4647
    assert origin("20181101_000006_REC [-27.3866+152.8761].flac").longitude == 152.8761
    assert origin("20181101_000006_REC [-97.3866 152.8761].flac").latitude is None


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Berlin", utc(2022, 7, 19, 1, 15)),
        ("-04:00", utc(2022, 7, 19, 7, 15)),
        ("+0530", utc(2022, 7, 18, 21, 45)),
        ("UTC", utc(2022, 7, 19, 3, 15)),
        (None, None),
        ("", None),
    ],
)
def test_a_given_zone(zone: str | None, expected: datetime | None) -> None:
    found = origin("20220719_031500.WAV", timezone=zone)
    assert (found.start_utc, found.start_local) == (expected, datetime(2022, 7, 19, 3, 15))


def test_a_given_zone_does_not_overrule_the_recorder() -> None:
    assert origin("SwiftOne_20220719_000000_-0400.wav", timezone="Asia/Tokyo").start_utc == utc(2022, 7, 19, 4)
    assert origin("5DFB6DFC.WAV", timezone="Asia/Tokyo").start_utc == utc(2019, 12, 19, 12, 33)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "+25:00", "../../etc/passwd", "+05:99"])
def test_unknown_zone(zone: str) -> None:
    with pytest.raises(UserError, match="time zone"):
        parse_zone(zone)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", utc(2024, 9, 3, 19, 31, 30)),
        ("UTC+1", utc(2024, 9, 3, 18, 31, 30)),
        ("UTC-3:30", utc(2024, 9, 3, 23, 1, 30)),
    ],
)
def test_comments(zone: str, expected: datetime) -> None:
    found = origin("x.WAV", Metadata(comment=COMMENT.format(zone)))
    assert (found.recorder, found.start_source, found.start_utc) == ("AudioMoth", "comment", expected)
    assert found.start_local == datetime(2024, 9, 3, 19, 31, 30)


def test_a_comment_without_a_zone_stays_local() -> None:
    found = origin("x.WAV", Metadata(comment="Recorded at 19:31:30 03/09/2024 by AudioMoth 24E144055E080032 at gain 2"))
    assert (found.start_utc, found.start_local) == (None, datetime(2024, 9, 3, 19, 31, 30))


def test_a_broken_comment_falls_back_to_the_name() -> None:
    found = origin("20220719_031500.WAV", Metadata(comment=COMMENT.format("UTC").replace("/09/", "/13/")))
    assert (found.recorder, found.start_source) == ("AudioMoth", "filename")


def chunk(name: bytes, content: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(content)) + content + bytes(len(content) % 2)


def info(comment: str) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"IART", b"AudioMoth 24E1\0") + chunk(b"ICMT", comment.encode() + bytes(50)))


def wave(*parts: bytes) -> bytes:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 48_000, 96_000, 2, 16))
    body = b"WAVE" + fmt + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


class NoDataFile(io.BytesIO):
    """Fails the test when the sound itself is read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


SOUND = chunk(b"data", b"\x01\x80" * 100_000)
GUAN = chunk(b"guan", GUANO.format("2024-09-03T19:31:30+01:00").encode())


@pytest.mark.parametrize(
    "content",
    [
        wave(GUAN, info(COMMENT.format("UTC+1")), SOUND),
        wave(SOUND, info(COMMENT.format("UTC+1")), GUAN),
        wave(info(COMMENT.format("UTC+1")), SOUND, GUAN),
    ],
)
def test_chunks_before_and_behind_the_sound(content: bytes) -> None:
    handle = NoDataFile(content)
    metadata = read_metadata(handle, len(content))
    assert handle.count < 1500
    assert metadata.guano["Model"] == "AudioMoth"
    assert metadata.guano["GUANO|Version"] == "1.0"
    assert metadata.comment == COMMENT.format("UTC+1")
    assert metadata.artist == "AudioMoth 24E1"
    found = origin("20200101_000000.WAV", metadata)
    assert found == Origin(
        "AudioMoth", "guano", datetime(2024, 9, 3, 19, 31, 30), utc(2024, 9, 3, 18, 31, 30), 52.146196, -4.474776
    )


def bare(name: bytes, content: bytes, claimed: int | None = None) -> bytes:
    """A chunk whose writer forgot the padding, or whose size is another."""
    return name + struct.pack("<I", len(content) if claimed is None else claimed) + content


def wide(name: bytes, content: bytes) -> bytes:
    """A chunk of Wave64."""
    guid = name + bytes.fromhex("f3acd3118cd100c04f8edb8a")
    return guid + struct.pack("<Q", 24 + len(content)) + content + bytes(-len(content) % 8)


TEXTS = [chunk(b"LIST", b"INFO" + chunk(b"ICMT", b"by hand\0")), GUAN]
NOT_ROUND = b"\x81" * 99_999
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000") + struct.pack("<Q", 1 << 20) + wide(b"wave", b"")[:16]
W64 += wide(b"fmt ", struct.pack("<HHIIHH", 1, 1, 48_000, 48_000, 1, 8)) + wide(b"data", NOT_ROUND)
W64 += wide(b"\xbc\x94\x5f\x92", bytes(8))  # Sony's own, whose name is no text


@pytest.mark.parametrize(
    "content",
    [
        wave(chunk(b"data", NOT_ROUND), *TEXTS),
        wave(bare(b"data", NOT_ROUND), *TEXTS),
        wave(bare(b"data", NOT_ROUND), bare(b"LIST", b"INFO" + chunk(b"ICMT", b"by hand\0")), bare(b"guan", GUAN[8:])),
        wave(SOUND, bytes(510), *TEXTS),
        wave(SOUND, TEXTS[0], bytes(4000), TEXTS[1], bytes(100)),
        wave(bare(b"data", SOUND[8:], 0), *TEXTS),
        wave(bare(b"data", SOUND[8:], 0xFFFFFFFF), *TEXTS),
        wave(bare(b"data", SOUND[8:], 1 << 30), *TEXTS),
        wave(bare(b"data", SOUND[8:], 1000), *TEXTS),
        wave(SOUND, TEXTS[0], SOUND, TEXTS[1]),
        wave(SOUND) + wave(SOUND, *TEXTS),
        W64 + wide(b"list", TEXTS[0][8:]) + wide(b"guan", GUAN[8:]),
    ],
)
def test_metadata_wherever_a_writer_puts_it(content: bytes) -> None:
    metadata = read_metadata(io.BytesIO(content), len(content))
    assert (metadata.guano.get("Model"), metadata.comment) == ("AudioMoth", "by hand")


def test_a_broadcast_wave_says_when_where_nothing_else_does() -> None:
    text = b"at the pond".ljust(256, b"\0") + b"Zoom H4n".ljust(32, b"\0") + bytes(32) + b"2024-05-1404:30:00"
    content = wave(SOUND, chunk(b"bext", text + bytes(264)))
    metadata = read_metadata(io.BytesIO(content), len(content))
    assert (metadata.comment, metadata.artist) == ("at the pond", "Zoom H4n")
    assert origin("ZOOM0001.WAV", metadata) == Origin("", "bext", datetime(2024, 5, 14, 4, 30), None, None, None)
    assert origin("20240514_050000.WAV", metadata).start_source == "filename"
    metadata = Metadata(originated="0000-00-0000:00:00")
    assert origin("ZOOM0001.WAV", metadata).start_source == "none"


def test_metadata_of_an_aiff() -> None:
    def big(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)

    head = b"AIFF" + big(b"COMM", struct.pack(">hIh", 1, 99_999, 8) + bytes.fromhex("400ebb80000000000000"))
    said = COMMENT.format("UTC+1").encode()
    comments = struct.pack(">HIHH", 1, 0, 0, len(said)) + said
    for text in (big(b"ANNO", said), big(b"COMT", comments)):
        body = head + big(b"SSND", bytes(8) + NOT_ROUND) + big(b"AUTH", b"AudioMoth 24E1") + text
        content = b"FORM" + struct.pack(">I", len(body)) + body
        metadata = read_metadata(io.BytesIO(content), len(content))
        assert (metadata.comment, metadata.artist) == (said.decode(), "AudioMoth 24E1")


def test_metadata_behind_the_sound_of_an_rf64() -> None:
    sizes = struct.pack("<QQQI", 200_200, 200_000, 100_000, 0)
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 48_000, 96_000, 2, 16))
    sound = b"data" + struct.pack("<I", 0xFFFFFFFF) + b"\x01\x80" * 100_000
    content = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + chunk(b"ds64", sizes) + fmt + sound + GUAN
    assert read_metadata(io.BytesIO(content), len(content)).guano["Model"] == "AudioMoth"


def test_guano_without_an_offset_stays_local(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wave(SOUND, chunk(b"guan", GUANO.format("2024-09-03T19:31:30").encode())))
    found = identify(str(path))
    assert (found.start_source, found.start_utc) == ("guano", None)
    assert identify(str(path), timezone="Europe/London").start_utc == utc(2024, 9, 3, 18, 31, 30)


def test_damaged_metadata_is_no_error() -> None:
    for content in (
        b"",
        b"RIFF",
        wave(b"guan\xff\xff\xff\xff\xff\xfe\x00"),
        wave(chunk(b"guan", b"\xff\xfe\x00Timestamp")),
        wave(chunk(b"guan", b"Timestamp: not a time\nLoc Position: here\n")),
        wave(chunk(b"LIST", b"INFOICMT\xff\xff\xff\x7fabc")),
        wave(chunk(b"LIST", b"IN")),
        b"fLaC" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        assert origin("x.wav", read_metadata(io.BytesIO(content), len(content))) == Origin()


def wamd_chunk(**entries: str) -> bytes:
    numbers = {"version": 0, "model": 1, "timestamp": 5, "position": 6}
    packed = [struct.pack("<HI", numbers[name], len(text)) + text.encode() for name, text in entries.items()]
    return chunk(b"wamd", b"".join(packed))


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("WGS84,45.5017,N,73.5673,W,12", (45.5017, -73.5673)),
        ("WGS84, 33.8688, S, 151.2093, E", (-33.8688, 151.2093)),
        ("WGS84,-33.8688,151.2093", (-33.8688, 151.2093)),
        ("WGS84", (None, None)),
        ("WGS84,north,N,west,W", (None, None)),
    ],
)
def test_song_meters_own_chunk(position: str, expected: tuple[float | None, float | None]) -> None:
    content = wave(wamd_chunk(model="SM4", timestamp="2019-05-22 22:30:00-05:00", position=position), SOUND)
    found = origin("x.wav", read_metadata(io.BytesIO(content), len(content)))
    assert found == Origin("Song Meter", "wamd", datetime(2019, 5, 22, 22, 30), utc(2019, 5, 23, 3, 30), *expected)
    cut = content.replace(b"2019-05-22", b"2019-25-22")
    assert origin("x.wav", read_metadata(io.BytesIO(cut), len(cut))).start_source == "none"
    half = wave(chunk(b"wamd", wamd_chunk(model="SM4", timestamp="2019-05-22 22:30:00")[8:-9]))
    assert origin("x.wav", read_metadata(io.BytesIO(half), len(half))) == Origin("Song Meter")


def test_makers() -> None:
    assert origin("x.wav", Metadata({"Make": "Wildlife Acoustics", "Model": "SM4"})).recorder == "Song Meter"
    assert origin("x.wav", Metadata({"Model": "SwiftOne"})).recorder == "Swift"
    assert origin("x.wav", Metadata({"Make": "Titley Scientific", "Model": "Anabat"})).recorder == ""


@needs_shared
def test_real_headers() -> None:
    guano = SHARED / "soundscapes" / "bats" / "AudiomothNoBatCalls.WAV"
    comment = SHARED / "soundscapes" / "opensoundscape" / "metadata.wav"
    song_meter = SHARED / "soundscapes" / "scikit-maad" / "S4A03895_20190522_013000.wav"
    if not (guano.exists() and comment.exists() and song_meter.exists()):
        pytest.skip("the recordings with known headers are not there")
    found = identify(str(guano))
    assert (found.recorder, found.start_source, found.start_utc) == ("AudioMoth", "guano", utc(2024, 9, 3, 18, 31, 30))
    found = identify(str(comment))
    assert (found.recorder, found.start_source, found.start_utc) == ("AudioMoth", "comment", utc(2020, 4, 4, 10, 25))
    found = identify(str(song_meter), timezone="-03:00")
    assert (found.recorder, found.start_source, found.start_utc) == ("Song Meter", "filename", utc(2019, 5, 22, 4, 30))


@pytest.mark.parametrize(
    ("name", "local", "utc"),
    [
        ("5dfb6dfc.wav", "2019-12-19T12:33:00", "2019-12-19T12:33:00+00:00"),
        ("20220719_031500_+02.wav", "2022-07-19T03:15:00", "2022-07-19T01:15:00+00:00"),
        ("20220719_031500-01.wav", "2022-07-19T03:15:00", None),
        ("2019_05_22_01_30_00.wav", "2019-05-22T01:30:00", None),
        ("site_20220719_031500_-33.5.wav", "2022-07-19T03:15:00", None),
    ],
)
def test_names_of_less_usual_kinds(name: str, local: str, utc: str | None) -> None:
    found = origin(name)
    assert found.start_local == datetime.fromisoformat(local)
    assert found.start_utc == (datetime.fromisoformat(utc) if utc else None)


def test_metadata_of_less_usual_kinds() -> None:
    comment = Metadata(comment="Recorded at 9:03:00 3/9/2024 (UTC+2) by AudioMoth 0123456789ABCDEF")
    assert origin("a.wav", comment).start_utc == datetime(2024, 9, 3, 7, 3, tzinfo=UTC)
    short = Metadata(guano={"Timestamp": "2024-09-03T10:00:00+1:00"})
    assert origin("a.wav", short).start_utc == datetime(2024, 9, 3, 9, tzinfo=UTC)
    day = origin("x_20240903_010203.wav", Metadata(guano={"Timestamp": "2024-09-03"}))
    assert (day.start_source, day.start_local) == ("filename", datetime(2024, 9, 3, 1, 2, 3))
