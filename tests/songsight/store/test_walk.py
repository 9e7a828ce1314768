"""What a walk gives and what it passes over, on disks and in stores."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from songsight.store import urls
from songsight.store.walk import PassedOver, walk

SEEN = {"a/x.wav", "y.wav", "a b/Ünï.wav", "lost+found/z.wav", "recyclers/r.wav", "a.b/no.txt"}
HIDDEN = {
    *("._y.wav", ".y.wav", "..y.wav", ".Trashes/501/y.wav", "a/.git/annex/objects/y.wav", ".Trash-1000/files/y.wav"),
    *("$RECYCLE.BIN/S-1-5/y.wav", "a/$Recycle.Bin/y.wav", "System Volume Information/y.wav", "RECYCLER/y.wav"),
    *("__MACOSX/a/._y.wav", "a/@eaDir/y.wav/SYNOINDEX", "#recycle/y.wav", "@Recycle/y.wav", "#snapshot/1/a/x.wav"),
}


def names(url: str) -> tuple[list[str], PassedOver]:
    passed_over = PassedOver()
    return sorted(name for name, _, _ in walk(url, passed_over)), passed_over


@pytest.fixture
def in_memory() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory://songsight-walk"
    fs.store.clear()


@pytest.mark.parametrize("where", ["disk", "store"])
def test_hidden_files_and_those_of_systems_are_counted_alike(where: str, tmp_path: Path, in_memory: str) -> None:
    url = str(tmp_path / ".home") if where == "disk" else in_memory  # where the folder itself lies hides nothing
    for name in SEEN | HIDDEN:
        urls.write_bytes(urls.below(url, name), b"1")
    assert names(url) == (sorted(SEEN), PassedOver(len(HIDDEN)))


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "null.wav").symlink_to("/dev/null")
    (tmp_path / "linked.wav").symlink_to("pipe.wav")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(os.path.relpath(tmp_path / "ear.wav"))  # a socket's path is short
    (tmp_path / "x.wav").write_bytes(b"1")
    (tmp_path / "y.wav").symlink_to("x.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "round.wav").symlink_to("round.wav")
    assert names(str(tmp_path)) == (["gone.wav", "round.wav", "x.wav", "y.wav"], PassedOver(4))


def test_no_pipe_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(OSError, match="not a regular file"):
        urls.open_read(str(tmp_path / "pipe.wav"))
    with pytest.raises(OSError, match="not a regular file"):
        urls.require_regular((tmp_path / "pipe.wav").as_uri())


def test_links_that_go_round_end(tmp_path: Path) -> None:
    archive, elsewhere = tmp_path / "archive", tmp_path / "elsewhere"
    for folder in (archive / "a", archive / "b", elsewhere):
        folder.mkdir(parents=True)
        (folder / "x.wav").write_bytes(b"1")
    (archive / "a" / "self").symlink_to(".")
    (archive / "a" / "top").symlink_to("/")
    (archive / "b" / "up").symlink_to(archive)
    (archive / "disk").symlink_to(elsewhere)
    found = ["a/x.wav", "b/x.wav", "disk/x.wav"]
    assert names(str(archive)) == (found, PassedOver())
    (archive / "a" / "b").symlink_to(archive / "b")
    (archive / "b" / "a").symlink_to(archive / "a")
    assert names(str(archive))[0] == sorted([*found, "a/b/x.wav", "b/a/x.wav"])


def test_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.wav", "b/x.wav", ".Trashes/x.wav"):
        urls.write_bytes(str(tmp_path / name), b"1")
    real = os.scandir

    def refuse(folder: str) -> os._ScandirIterator[str]:
        if folder.endswith(("/b", "/.Trashes")):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may look into any folder
    assert names(str(tmp_path)) == (["a/x.wav"], PassedOver(1, [str(tmp_path / "b")]))


def test_a_name_that_no_table_can_hold_is_shown(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")).write_bytes(b"1")
    assert names(str(tmp_path))[0] == ["caf\\xe9.wav"]


def test_a_store_s_names_lead_to_what_it_listed(in_memory: str) -> None:
    odd = [
        "/lead.wav",
        "//two.wav",
        "mid//x.wav",
        "a/../up.wav",
        "../out.wav",
        "a::b.wav",
        "::c.wav",
        " a.wav ",
        "%41.wav",
    ]
    fs = fsspec.filesystem("memory")
    for name in odd:
        fs.pipe_file(f"/songsight-walk/{name}", name.encode())
    assert names(in_memory) == (sorted(odd), PassedOver())
    for name in odd:
        with urls.open_read(urls.below(in_memory, name)) as handle:
            assert handle.read().decode() == name


PAGES = {
    "/archive/": '<a href="x.wav">x</a> <a href="../">up</a> <a href="../secret.wav">s</a> <a href="b/">b</a>',
    "/archive/b/": '<a href="y%20z.wav">y</a> <a href="/secret.wav">s</a> <a href="%2e%2e/../../secret.wav">s</a>',
}


class Index(http.server.BaseHTTPRequestHandler):
    """A web server whose pages link to their folder's files, and some out of it."""

    def do_GET(self) -> None:
        if folder := f"{self.path}/" in PAGES:
            self.send_response(301)
            self.send_header("Location", f"{self.path}/")
        else:
            self.send_response(200)
        page = b"" if folder else PAGES.get(self.path, self.path).encode()
        self.send_header("Content-Type", "text/html" if self.path in PAGES else "audio/wav")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        del args


def test_no_link_of_a_web_page_leads_out() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/archive"
        try:
            found, passed_over = names(url)
            assert found == ["b/y%20z.wav", "x.wav"]
            assert passed_over.files
            assert urls.read_bytes(urls.below(url, found[0])) == b"/archive/b/y%20z.wav"
        finally:
            server.shutdown()
