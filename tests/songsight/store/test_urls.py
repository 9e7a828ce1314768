"""Reads and writes on a real S3 store; local paths are what every other test uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import s3fs

from songsight.errors import UserError
from songsight.store import tables, urls
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
