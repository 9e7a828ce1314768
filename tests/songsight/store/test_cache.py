from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from songsight.errors import UserError
from songsight.store import cache

HOUR_S, DAY_S = 3600, 86400


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(cache.SIZE, raising=False)
    return tmp_path / "cache" / "songsight"


def of(size: int) -> Callable[[str], None]:
    """Makes an entry of so many bytes, in two files of which one lies deeper."""

    def make(folder: str) -> None:
        os.mkdir(f"{folder}/deep")
        Path(folder, "a").write_bytes(bytes(size // 2))
        Path(folder, "deep", "b").write_bytes(bytes(size - size // 2))

    return make


def aged(path: str, seconds: float) -> str:
    """The same entry, last used so many seconds ago."""
    for name in (*Path(path).rglob("*"), path):
        os.utime(name, (time.time() - seconds,) * 2)
    return path


def no_longer(folder: str) -> None:
    raise AssertionError("made again")


def test_an_entry_is_made_once_and_marked_as_used(root: Path) -> None:
    made = cache.entry("models", "a", of(10))
    assert made == str(root / "models" / "a")
    assert sorted(path.name for path in Path(made).rglob("*")) == ["a", "b", "deep"]
    aged(made, DAY_S)
    assert cache.entry("models", "a", no_longer) == made
    assert os.stat(made).st_mtime > time.time() - HOUR_S


def test_of_one_that_fails_nothing_is_kept(root: Path) -> None:
    def fail(folder: str) -> None:
        of(10)(folder)
        raise UserError("nothing is there")

    with pytest.raises(UserError, match="nothing is there"):
        cache.entry("models", "a", fail)
    assert [path.name for path in (root / "models").iterdir() if path.is_dir()] == []
    assert Path(cache.entry("models", "a", of(10)), "a").exists()


def test_where_locks_do_not_hold_the_faster_process_s_copy_is_taken(root: Path) -> None:
    def overtaken(folder: str) -> None:
        of(10)(folder)
        (root / "models" / "a").mkdir()
        of(20)(str(root / "models" / "a"))

    assert Path(cache.entry("models", "a", overtaken), "a").stat().st_size == 10
    with pytest.raises(FileNotFoundError):
        cache.entry("models", "b", os.rmdir)


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    program = (
        "import os, time, uuid\n"
        "from songsight.store import cache\n"
        "def make(folder):\n"
        f"    open({str(tmp_path)!r} + '/made-' + uuid.uuid4().hex, 'w').close()\n"
        "    time.sleep(1)\n"
        "    open(folder + '/whole', 'w').close()\n"
        "assert os.path.exists(cache.entry('openvino', 'a', make) + '/whole')\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [each.wait(60) for each in started] == [0, 0, 0]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "30e-6")
    old, used = aged(cache.entry("models", "old", of(9_000)), 9 * DAY_S), cache.entry("openvino", "used", of(9_000))
    middle = aged(cache.entry("text_banks", "middle", of(9_000)), 2 * DAY_S)
    aged(used, 10 * DAY_S)
    cache.entry("openvino", "used", no_longer)
    assert all(map(os.path.isdir, (old, middle, used)))  # 27 of 30 kB
    new = cache.entry("models", "new", of(9_000))
    assert [os.path.isdir(path) for path in (old, middle, used, new)] == [False, True, True, True]


def test_what_was_asked_for_lately_stays_though_all_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "0")
    before, lately = (cache.entry("models", key, of(9_000)) for key in ("before", "lately"))
    aged(before, 2 * HOUR_S)
    aged(lately, HOUR_S / 2)
    new = cache.entry("models", "new", of(9_000))
    assert [os.path.isdir(path) for path in (before, lately, new)] == [False, True, True]


def test_what_a_killed_process_left_makes_room_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "10e-6")
    left = root / "models" / "tmp1234"
    left.mkdir(parents=True)
    of(9_000)(str(left))
    aged(str(left), DAY_S)
    cache.entry("openvino", "new", of(9_000))
    assert not left.exists()


def test_an_open_file_of_a_deleted_entry_can_be_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, "0")
    with open(f"{cache.entry('models', 'a', of(100))}/a", "rb") as handle:
        aged(str(Path(handle.name).parent), DAY_S)
        cache.entry("models", "b", of(100))
        assert not os.path.exists(handle.name)
        assert handle.read() == bytes(50)


@pytest.mark.parametrize("said", ["much", "-1", "nan"])
def test_a_size_that_is_none_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.SIZE, said)
    with pytest.raises(UserError, match=rf"^SONGSIGHT_CACHE_GB {said}: should be a number of gigabytes, such as 20$"):
        cache.entry("models", "a", of(10))


@pytest.mark.parametrize("home", ["XDG_CACHE_HOME", "HOME"])
def test_a_home_that_cannot_be_written_does_not_matter(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # below a file nobody can write, not even root
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv(home, str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = cache.entry("models", "a", of(10))
    assert made == str(tmp_path / f"songsight-{os.getuid()}" / "models" / "a")
    assert os.stat(Path(made).parents[1]).st_mode & 0o777 == 0o700
    assert not (Path.cwd() / "relative").exists()


def test_nor_is_somebody_else_s_folder_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"songsight-{os.getuid()}").symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"^XDG_CACHE_HOME: neither .*/file/songsight nor .* is a folder of yours"):
        cache.folder()
