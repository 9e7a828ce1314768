from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from inference.truth import annotations
from songsight.datasets import taxonomy
from songsight.errors import UserError
from songsight.store import tables

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def rows(path: Path, **options: object) -> list[tuple]:
    return [tuple(row.values()) for row in annotations.read(str(path), **options)[0].to_pylist()]  # type: ignore[arg-type]


def test_a_selection_seen_in_two_views_is_one_and_the_recording_is_the_tables_name(tmp_path: Path) -> None:
    lines = [
        f"{RAVEN}\tSpecies",
        "1\tWaveform 1\t1\t1.5\t2.5\t0\t8000\tWOTH",
        "1\tSpectrogram 1\t1\t1.5\t2.5\t0\t8000\tWOTH",
        "2\tSpectrogram 1\t1\t0.25\t3\t0\t8000\t",
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.Table.1.selections.txt").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    assert rows(tmp_path) == [("a/x", 0.25, 3, None), ("a/x", 1.5, 2.5, "WOTH")]


def test_in_a_table_of_several_files_times_are_offsets_into_each(tmp_path: Path) -> None:
    table = tmp_path / "all.txt"
    lines = [
        f"{RAVEN}\tBegin Path\tFile Offset (s)\tCommon Name",
        "1\tSpectrogram 1\t1\t1\t2\t0\t8000\tC:\\sounds\\a.wav\t1\tWood Thrush",
        "2\tSpectrogram 1\t1\t61\t64\t0\t8000\tC:\\sounds\\b.wav\t1\tWood Thrush",
    ]
    table.write_text("\n".join(lines))
    assert rows(table) == [("C:/sounds/a.wav", 1, 2, "Wood Thrush"), ("C:/sounds/b.wav", 1, 4, "Wood Thrush")]
    table.write_text("\n".join(line.replace("\t1\tWood", "\tWood").replace("\tFile Offset (s)", "") for line in lines))
    with pytest.raises(UserError, match=r"2 files and has no column 'File Offset \(s\)'"):
        annotations.read(str(table))


def test_audacity_birdnet_and_plain_tables(tmp_path: Path) -> None:
    (tmp_path / "night.txt").write_text("0.5\t1.5\tTurdus merula\n\\\t100.0\t900.0\n2\t3\tStrix aluco\n")
    (tmp_path / "b.BirdNET.results.csv").write_text(
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n0.0,3.0,Parus major,Great Tit,0.9,/d/b.wav\n"
    )
    plain = pa.table({"recording": ["c.wav"], "start_s": [0.0], "end_s": [9.0], "scientific_name": ["Parus major"]})
    tables.write_table(str(tmp_path / "plain.parquet"), plain)
    (tmp_path / "one-hot.csv").write_text("file,start_time,end_time,zeep\na.wav,0,3,1\n")  # nor is a label a column
    (tmp_path / "species.txt").write_text("Turdus merula_Eurasian Blackbird\n")  # no annotations: left alone
    assert rows(tmp_path) == [
        ("/d/b.wav", 0, 3, "Parus major"),
        ("c.wav", 0, 9, "Parus major"),
        ("night", 0.5, 1.5, "Turdus merula"),
        ("night", 2, 3, "Strix aluco"),
    ]


def test_codes_common_names_and_birdnets_labels_become_scientific_names(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text(
        "scientific_name,common_name,species_code\n"
        "Hylocichla mustelina,Wood Thrush,woothr\nParus major,Great Tit,gretit1\n"
    )
    labels = ["woothr", "wood thrush", "Parus major_Kohlmeise", "rustling"]
    (tmp_path / "x.txt").write_text("".join(f"{i}\t{i + 1}\t{label}\n" for i, label in enumerate(labels)))
    known = taxonomy.read(str(tmp_path / "taxa.csv"))
    found = [row[3] for row in rows(tmp_path / "x.txt", taxonomy=known)]
    assert found == ["Hylocichla mustelina", "Hylocichla mustelina", "Parus major", "rustling"]
    assert rows(tmp_path / "x.txt")[2][3] == "Parus major"


def test_a_table_that_lists_nothing_speaks_of_its_recording_when_asked(tmp_path: Path) -> None:
    (tmp_path / "quiet.selections.txt").write_text(f"{RAVEN}\tSpecies\n")
    assert rows(tmp_path) == []
    assert rows(tmp_path, with_empty=True) == [("quiet", None, None, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{RAVEN}\tWhat\n1\tS\t1\t0\t1\t0\t1\tx\n", "no column that names the species, such as Species"),
        (f"{RAVEN}\tSpecies\n1\tS\t1\tsoon\t1\t0\t1\tx\n", "line 2: a time should be a number of seconds"),
        (f"{RAVEN}\tSpecies\n1\tS\t1\t2\t1\t0\t1\tx\n", "line 2: ends at 1 s, before it starts at 2 s"),
        (
            "name\nx\n",
            r"no columns that say when a call begins and ends.*\(it has name\), read as UTF-8, not separated",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        annotations.read(str(tmp_path / "x.txt"))
    (tmp_path / "y.txt").write_text(f"{RAVEN}\tSpecies\n1\tS\t1\t0\t1\t0\t1\tx\n")
    with pytest.raises(UserError, match="no column 'Call'"):
        annotations.read(str(tmp_path / "y.txt"), "Call")
    (tmp_path / "z.txt").write_text("0\t1\tWOTH\n")  # Audacity's column has no name that could be another
    assert rows(tmp_path / "z.txt", species_column="Call") == [("z", 0, 1, "WOTH")]


SPECIES = f"{RAVEN}\tBegin File\tFile Offset (s)\tSpecies"
LISTED = [("a.wav", 1, 2, "WOTH"), ("a.wav", 4, 6, "EATO"), ("b.wav", 1, 2, "WOTH"), ("b.wav", 4, 6, "EATO")]


def selections(header: str, rows: list[dict[str, object]]) -> str:
    """A Raven table with the columns of a header; what a row does not say is blank."""
    lines = [header, *("\t".join(str(row.get(name, "")) for name in header.split("\t")) for row in rows)]
    return "\n".join(lines) + "\n"


def listed(first: int = 0, **more: object) -> list[dict[str, object]]:
    """`LISTED` as Raven has it when it opened two files of a minute as one; selections start again with each."""
    return [
        {
            "Selection": first * file + number + 1,
            "View": "Spectrogram 1",
            "Begin Time (s)": 60 * file + start,
            "End Time (s)": 60 * file + end,
            "Delta Time (s)": end - start,
            "Begin File": f"{'ab'[file]}.wav",
            "File Offset (s)": start,
            "Species": name,
            **more,
        }
        for file in (0, 1)
        for number, (_, start, end, name) in enumerate(LISTED[:2])
    ]


@pytest.mark.parametrize(
    "text",
    [
        selections(SPECIES, listed()),
        selections(SPECIES, [row | {"View": view} for row in listed() for view in ("Waveform 1", "Spectrogram 1")]),
        selections(SPECIES, [*listed(2), *listed(2, View="Waveform 1")]),
        selections(SPECIES, listed()[:2]) + selections(SPECIES.replace("Channel\t", ""), listed()[2:]),
        selections(SPECIES.replace("End Time (s)", "Delta Time (s)"), listed()),
        selections(SPECIES.replace("Begin Time (s)\tEnd Time (s)", "Delta Time (s)"), listed()),
        selections("Species\tBegin File\tFile Offset (s)\tBegin Time (s)\tEnd Time (s)\tMine", listed(Mine="x")),
        selections(SPECIES, listed()).replace(" (s)", "..s.").replace("Begin ", "Begin."),
        selections(SPECIES, listed()).replace("\t", ";").replace("(s)", '"(s)"').replace('"', ""),
        "\ufeff" + selections(SPECIES, listed()[:2]) + "\ufeff" + selections(SPECIES, listed()[2:]),
        selections(SPECIES + "\tCommon Name", listed(**{"Species": "NA", "Common Name": "?"})).replace("NA\t?", "\tX"),
    ],
    ids=["joined", "views", "views-apart", "headers", "delta", "offset", "hidden", "r", "semicolons", "marks", "names"],
)
def test_no_row_of_a_joined_or_rearranged_raven_table_is_lost(tmp_path: Path, text: str) -> None:
    (tmp_path / "all.txt").write_text(text)
    names = ("X", "X") if "\tX" in text else ("WOTH", "EATO")
    assert rows(tmp_path) == [(*row[:3], name) for row, name in zip(LISTED, names * 2, strict=True)]


def test_times_of_joined_tables_of_a_file_each_count_from_their_own_file(tmp_path: Path) -> None:
    own = [
        row | {"Begin Time (s)": start, "End Time (s)": end}
        for row, (_, start, end, _) in zip(listed(), LISTED, strict=True)
    ]
    (tmp_path / "all.txt").write_text(selections(f"{RAVEN}\tBegin File\tSpecies", own))
    assert rows(tmp_path) == LISTED
    (tmp_path / "all.txt").write_text(selections(f"{RAVEN}\tBegin File\tSpecies", listed(2)))
    (tmp_path / "plain.csv").write_text("selection,file,start,end,label\n1,a.wav,1,2,x\n2,b.wav,1,2,x\n")
    assert len(rows(tmp_path / "plain.csv")) == 2  # whose times nobody but Raven counts through
    with pytest.raises(UserError, match=r"of 2 files and has no column 'File Offset \(s\)'"):
        annotations.read(str(tmp_path / "all.txt"))


def test_calls_that_share_a_number_and_their_time_are_told_apart_by_their_names(tmp_path: Path) -> None:
    row = listed()[0]
    (tmp_path / "a.txt").write_text(selections(SPECIES, [row, row | {"Species": "EATO"}, row | {"View": "Waveform 1"}]))
    assert sorted(found[3] for found in rows(tmp_path)) == ["EATO", "WOTH"]


def test_a_row_is_dropped_only_for_the_same_selection_in_another_view(tmp_path: Path) -> None:
    row = listed()[0]
    waveform = row | {"View": "Waveform 1"}
    for header, given, names in (
        (SPECIES, [row, row], 2),  # one view: tables were joined
        (SPECIES, [row, waveform, row, waveform], 2),
        (SPECIES, [waveform | {"Species": ""}, row], 1),
        (SPECIES, [row | {"Channel": 1}, row | {"Channel": 2}], 1),
        (SPECIES.removeprefix("Selection\t"), [row, waveform], 1),
        (SPECIES.removeprefix("Selection\t"), [row, row], 2),
        (SPECIES.replace("\tView", ""), [row, waveform], 1),
        (SPECIES.removeprefix("Selection\tView\t"), [row, row], 2),
    ):
        (tmp_path / "a.txt").write_text(selections(header, given))
        assert [found[3] for found in rows(tmp_path)] == ["WOTH"] * names, (header, given)


def test_every_file_of_a_folder_is_used_or_named_with_the_reason(tmp_path: Path) -> None:
    one = listed()[:1]
    contents = {
        "GOOD.TXT": selections(f"{RAVEN}\tSpecies", one).encode("utf-16"),
        "old.selections": selections(f"{RAVEN}\tSpecies", one).encode() + b"\x1a",  # as Windows ends what it joins
        "quiet.selections.txt": f"{RAVEN}\n".encode(),  # its annotator's column comes with the first label
        "unnamed.txt": selections(f"{RAVEN}\tSp", one).encode(),
        "clock.txt": selections("Selection\tView\tBegin Clock Time\tSpecies", one).encode(),
        "twice.txt": selections(f"{RAVEN}\tSpecies\tspecies", [one[0] | {"species": "EATO"}]).encode(),
        "joined.txt": 2 * selections(f"{RAVEN}\tSpecies", one).encode(),
        "wide.txt": selections(f"{RAVEN}\tSpecies", one).replace("WOTH", "WOTH\tx").encode(),
        "inf.txt": b"start_s,end_s,label\n0,inf,x\n",
        "empty.txt": b"",
        "readme.txt": b"what is here",
        "book.xlsx": b"PK\x03\x04",
        "sent.csv.zip": b"PK\x03\x04",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    table, unused = annotations.read(str(tmp_path), with_empty=True)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("GOOD", 1, 2, "WOTH"),
        ("old", 1, 2, "WOTH"),
        ("quiet", None, None, None),
    ]
    reasons = {Path(reason.split(",")[0].split(" ")[0]).name: reason for reason in unused}
    assert reasons.keys() == contents.keys() - {"GOOD.TXT", "old.selections", "quiet.selections.txt"}
    for name, said in (
        ("unnamed.txt", "no column that names the species"),
        ("clock.txt", r"when a call begins and ends.*Begin Clock Time"),
        ("twice.txt", "column 'species' twice"),
        ("joined.txt", "2 tables joined, without a column that says what recording"),
        ("wide.txt", "line 2 has 9 cells, the header 8"),
        ("inf.txt", "line 2: a time should be a number of seconds"),
        ("empty.txt", "it is empty"),
        ("readme.txt", "not separated by tabs"),
        ("book.xlsx", "workbook"),
        ("sent.csv.zip", "zip file"),
    ):
        assert re.search(said, reasons[name]), reasons[name]
    for name in contents.keys() - reasons.keys():
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"no annotations are there; wanted Raven .*such as .*book\.xlsx"):
        annotations.read(str(tmp_path))


def test_names_meet_the_archives_paths() -> None:
    archive = ["site/a/x.wav", "site/b/x.wav", "site/y.flac", "z.wav"]
    names = ["a/x", "C:/old/y.wav", "z.wav", "x", "gone"]
    table = pa.Table.from_pylist(
        [{"recording": name, "start_s": 0, "end_s": 1} for name in names], annotations.ANNOTATIONS
    )
    found, unknown = annotations.matched(table, archive)
    assert found["recording"].to_pylist() == ["site/a/x.wav", "site/y.flac", "z.wav"]
    assert unknown == ["gone", "x"]  # two recordings are an x: neither is guessed


def test_real_tables(shared: Path) -> None:
    folder = shared / "soundscapes"
    raven, _ = annotations.read(str(folder / "opensoundscape" / "MSD-0003_20180427_2minstart00.Table.1.selections.txt"))
    assert len(raven) == 10
    assert set(raven["scientific_name"].to_pylist()) == {"WOTH", "EATO", "LOWA", None}
    assert set(raven["recording"].to_pylist()) == {"MSD-0003_20180427_2minstart00"}
    labels, _ = annotations.read(str(folder / "scikit-maad" / "spinetail.txt"))
    found, unknown = annotations.matched(labels, ["scikit-maad/spinetail.wav"])
    assert (len(found), unknown) == (18, [])
    assert labels["scientific_name"].to_pylist().count("CRER") == 4
    everything, unused = annotations.read(str(folder / "opensoundscape"))
    assert everything.equals(raven)  # the tables of detections and positions beside it are no annotations
    assert len(unused) == len([*(folder / "opensoundscape").glob("*.csv")])
    empty, _ = annotations.read(str(folder / "opensoundscape" / "EmptyExample.Table.1.selections.txt"), with_empty=True)
    assert empty["recording"].to_pylist() == ["EmptyExample"]


@pytest.mark.parametrize("column", ["filename", "File Name", "audio_file", "recording_id"])
def test_a_plain_table_names_its_recordings_in_some_words(column: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{column},start,end,species\nx.wav,1,2,A b\ny.wav,1,2,A b\n")
    found, unused = annotations.read(str(tmp_path / "t.csv"))
    assert (found["recording"].to_pylist(), unused) == (["x.wav", "y.wav"], [])
