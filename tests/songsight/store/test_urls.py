"""Reads and writes on a real S3 store; local paths are what every other test uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pyarrow as pa
import pytest
import s3fs

from songsight.datasets import assemble, files
from songsight.errors import UserError
from songsight.store import tables, urls
from songsight.store.walk import PassedOver, walk
from tests.faulty_proxy import Fault, standing_before
from tests.s3_server import Store

BIG = os.urandom(3 << 20)  # more than s3fs reads in one go


@pytest.fixture
def folder(s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """URL of a folder of the test's own on the store."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"{s3.bucket}/{tmp_path.name}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("data", [b"", b"song", BIG], ids=["empty", "small", "big"])
def test_what_is_written_is_read(folder: str, data: bytes) -> None:
    url = f"{folder}/a/x.bin"
    assert not urls.exists(url)
    urls.write_bytes(url, data)
    assert urls.exists(url)
    assert urls.exists(f"{folder}/a")
    assert urls.read_bytes(url) == data
    with urls.open_read(url) as handle:
        handle.seek(2)
        assert handle.read() == data[2:]


def test_folders_go_there_and_back(folder: str, tmp_path: Path) -> None:
    files = {"a.txt": b"1", "below/b.bin": BIG, "below/empty": b""}
    for name, data in files.items():
        urls.write_bytes(str(tmp_path / "from" / name), data)
    urls.store_folder(str(tmp_path / "from"), f"{folder}/kept")
    got = Path(urls.fetch_folder(f"{folder}/kept", str(tmp_path / "to")))
    assert {str(path.relative_to(got)): path.read_bytes() for path in got.rglob("*") if path.is_file()} == files
    with pytest.raises(UserError, match="nothing is there"):
        urls.fetch_folder(f"{folder}/gone", str(tmp_path / "none"))


def test_remove_takes_what_is_below_and_nothing_beside(folder: str) -> None:
    for name in ("state/a", "state/below/b", "state-of-another/c"):
        urls.write_bytes(f"{folder}/{name}", b"1")
    urls.remove(f"{folder}/state")
    assert not urls.exists(f"{folder}/state")
    assert not urls.exists(f"{folder}/state/below/b")
    assert urls.exists(f"{folder}/state-of-another/c")
    urls.remove(f"{folder}/state")


def test_tables_keep_rows_and_schema(folder: str) -> None:
    table = pa.table({"path": ["a.wav", "b.wav"], "scientific_name": ["Parus major", None], "score": [0.5, 1.0]})
    tables.write_table(f"{folder}/t.parquet", table)
    assert tables.read_table(f"{folder}/t.parquet", "--recordings", ("path",)).equals(table)


def test_ray_writes_files_in_parts(folder: str) -> None:
    """As Ray Train writes its checkpoints: through pyarrow, as a stream, which S3 takes in parts of 5 MiB and more."""
    filesystem, path = urls.arrow_filesystem(f"{folder}/checkpoint.pt")
    with filesystem.open_output_stream(path) as stream:
        for _ in range(2):
            stream.write(BIG)
    assert urls.read_bytes(f"{folder}/checkpoint.pt") == BIG * 2


def test_answers_cut_short_are_asked_for_again(
    folder: str, s3: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    urls.write_bytes(f"{folder}/m/big", BIG)
    with standing_before(s3.endpoint, Fault("cut", "GET .*/big", first=2)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        assert urls.read_bytes(f"{folder}/m/big") == BIG
    assert proxy.injected["cut"] == 2
    with standing_before(s3.endpoint, Fault("cut", "GET .*/big", first=2)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        got = urls.fetch_folder(f"{folder}/m", str(tmp_path / "got"))
    assert proxy.injected["cut"] == 2
    assert Path(got, "big").read_bytes() == BIG


def test_an_object_is_read_by_the_name_that_the_store_lists(folder: str, s3: Store, tmp_path: Path) -> None:
    here = tmp_path / "of this machine.wav"
    here.write_bytes(b"not that one")
    odd = [
        str(here),
        here.as_uri(),
        "/lead.wav",
        "mid//x.wav",
        "a/../up.wav",
        "../out.wav",
        "a::b.wav",
        "s3://no/x.wav",
    ]
    odd += [
        " a + b.wav",
        "%41.wav",
        "q?.wav",
        "h#.wav",
        "new\nline.wav",
        "[a]*.wav",
        "~/x.wav",
        "u\u0308.wav",
        "\u00fc.wav",
    ]
    client = botocore.session.get_session().create_client("s3", endpoint_url=s3.endpoint)
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    for name in odd:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode())
    listed = [name for name, _, _ in walk(f"{folder}/", PassedOver())]
    assert sorted(listed) == sorted(odd)
    for name in listed:
        with urls.open_read(urls.below(folder, name)) as handle:
            assert (handle.read().decode(), urls.read_bytes(urls.below(folder, name)).decode()) == (name, name)

    found, missing = assemble.present(pa.table({"path": [*listed, "none.wav", "/none.wav"]}), files.Folder(folder))
    assert found["path"].to_pylist() == [urls.below(folder, name) for name in listed]
    assert missing["path"].to_pylist() == [f"{folder}/none.wav", "/none.wav"]
    for out in (f"{folder}/t.parquet", f"{folder}//t.parquet", str(tmp_path / "t.parquet")):
        written = assemble.relative(found, out)["path"].to_pylist()
        assert [tables.resolve_path(path, out) for path in written] == found["path"].to_pylist()

    with pytest.raises(UserError, match="leads out of the folder"):
        urls.fetch_folder(folder, str(tmp_path / "copy"))
    assert not (tmp_path / "out.wav").exists()


def test_local_names_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Field::A/12::30.wav", "::a", "zip::b.zip", "file::c", "local:d", "file:e", "50%20.wav", "memory::/f"):
        urls.write_bytes(name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"
        assert urls.read_bytes(urls.join(urls.absolute("."), name)) == b"1"
        assert not urls.is_remote(name)
        assert urls.absolute(name) == str(tmp_path / name)
    urls.remove("Field::A")
    assert not (tmp_path / "Field::A").exists()


def test_file_urls_are_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20c::ü"
    url = folder.as_uri()
    assert "%20b%2520c" in url
    urls.write_bytes(urls.join(url, "x%20y.wav"), b"1")  # a part is a name, and no URL
    assert (folder / "x%20y.wav").read_bytes() == b"1"
    for spelled in (url, url.replace("file://", "file://localhost"), url.replace("file://", "FILE:")):
        assert urls.absolute(spelled) == str(folder)
        assert urls.exists(urls.below(spelled, "x%20y.wav"))
        assert files.Folder(spelled).files == {"x%20y.wav"}
    table = f"{url}/t.parquet"
    tables.write_table(table, pa.table({"path": ["x%20y.wav", f"{url}/x%2520y.wav"]}))
    rows = tables.read_table(table, "--recordings", ("path",))["path"].to_pylist()
    assert {urls.absolute(tables.resolve_path(path, table)) for path in rows} == {str(folder / "x%20y.wav")}


def test_a_store_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nothing listens there
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(UserError, match=r"s3://nowhere/x: Could not connect .*AWS_ENDPOINT_URL say who asks"):
            urls.exists("s3://nowhere/x")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_path_from_here_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("./out", ".//out", "././/out", "out"):
        assert urls.absolute(path) == str(tmp_path / "out")
