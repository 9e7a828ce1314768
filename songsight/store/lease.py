"""One run at a time in a folder: a claim that says who is at it, renewed while that run lives.

The claim is the file `.claim`. It is renewed every `RENEWED_S` and free when it was not renewed for `FREE_S`, by the
store's clock, or at once when its process is gone from this host. A run that was suspended for long may have lost it to
another, so each step that publishes something calls `check` first.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import psutil

from songsight.errors import JobError, UserError
from songsight.store import urls
from songsight.store.retry import persistently

NAME = ".claim"
RENEWED_S = 20.0
FREE_S = 120.0
SETTLED_S = 2.0
"""Behind a claim that another may have written over at the same moment, this long before it is read again."""
_SAME_START_S = 60.0  # a process's start is told by a clock that may be set meanwhile


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        id: of the claim.
        host, first_s, pid, started_s: the process: its host, when the first process there began (a container has its
            own), its number and when it began. Seconds since 1970.
        job: id of the Ray job that it was submitted as; "" where it was not.
        since: when it took the claim, ISO 8601 in UTC.
    """

    id: str
    host: str
    first_s: float
    pid: int
    started_s: float
    job: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process, with a new claim."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        host, pid = socket.gethostname(), os.getpid()
        return cls(uuid.uuid4().hex, host, _began(1) or 0.0, pid, _began(pid) or 0.0, _ray_job(), now)

    @classmethod
    def parse(cls, data: bytes) -> Holder | None:
        """The holder of a claim's text; None where it is not whole yet, or another version's."""
        try:
            found = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        words = (found.id, found.host, found.job, found.since)
        numbers = (found.first_s, found.started_s)
        fits = all(isinstance(word, str) for word in words) and all(isinstance(one, int | float) for one in numbers)
        return found if fits and isinstance(found.pid, int) and 0 < found.pid < 1 << 31 else None

    def is_gone(self) -> bool:
        """Whether it is known that the process does not live any more, which only its own host can tell."""
        first_s = _began(1)
        if self.host != socket.gethostname() or first_s is None or abs(first_s - self.first_s) > _SAME_START_S:
            return False
        if not psutil.pid_exists(self.pid):
            return True
        started_s = _began(self.pid)
        return started_s is not None and abs(started_s - self.started_s) > _SAME_START_S

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"host {self.host}, process {self.pid}{job}, since {self.since.replace('+00:00', 'Z')}"


class Lease:
    """A claim on a folder that this process holds; see `held`."""

    def __init__(self, folder: str, option: str) -> None:
        self.folder, self.option = folder, option
        self.url = urls.join(urls.absolute(folder), NAME)
        self.me = Holder.here()
        self._renewing = threading.Lock()

    def renew(self) -> None:
        """Says that the run is still there.

        Raises:
            JobError: another run has taken it over meanwhile.
        """
        with self._renewing:
            try:
                found = self._read()
            except (IsADirectoryError, NotADirectoryError):
                found = None
            if found == self.me:
                self._touch()
                return
        by = f"; now it is {found}" if found else ""
        raise JobError(
            f"{self.option} {self.folder}: this run lost its claim there{by}: it stood still for more than {FREE_S:g} "
            f"s, or {self.url} was removed"
        )

    def take(self) -> None:
        """Claims the folder.

        Raises:
            UserError: another run has it; nothing is changed then.
        """
        for _ in range(3):  # more often only where others come and go meanwhile
            if (found := self._other()) is not None:
                raise UserError(found)
            if self._create() or self._overwrite():
                return
        raise UserError(f"{self.option} {self.folder}: other runs are just beginning there")

    def release(self) -> None:
        """Gives the claim back. Where the store does not answer it is free of itself a little later."""
        with contextlib.suppress(Exception), self._renewing:
            if self._read() == self.me:
                urls.remove_file(self.url)

    def renew_until(self, ended: threading.Event) -> None:
        """Renews the claim every `RENEWED_S`."""
        while not ended.wait(RENEWED_S):
            # What is wrong with it is told by the next `check`, in the thread of the work.
            with contextlib.suppress(Exception):
                self.renew()

    def _other(self) -> str | None:
        """One line on who has the claim; None where it is free."""
        found, unread = self._read(), self._modified(self.url)
        if unread is None or (found is not None and found.is_gone()):
            return None
        probe = urls.join(urls.parent(self.url), f"{NAME}.{uuid.uuid4().hex}.tmp")
        persistently(lambda: urls.write_bytes(probe, b""))
        now = self._modified(probe)
        urls.remove_file(probe)
        if now is None or now - unread > timedelta(seconds=FREE_S):
            return None
        who = found or "one that has just begun"
        return (
            f"{self.option} {self.folder}: another run is at it ({who}); its claim ends with it, or at the latest "
            f"{FREE_S:g} s after it was last heard of: {self.url}"
        )

    def _create(self) -> bool:
        """Writes the claim where none is, in one step of the store's; False where one is there or it has no such."""
        fs, path = urls.filesystem(self.url)
        try:
            if urls.is_remote(self.url):
                fs.pipe_file(path, self._text(), mode="create")
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb", buffering=0) as handle:
                    try:
                        handle.write(self._text())
                    except OSError:  # a full disk: half a claim would be taken for somebody's
                        os.remove(path)
                        raise
        except (PermissionError, UserError):
            raise
        except Exception:  # the claim of another, or a store without conditions: the closer look tells
            return False
        return self._read() == self.me

    def _overwrite(self) -> bool:
        """Writes the claim over one that is free; whoever is found there a moment later has it."""
        persistently(lambda: urls.write_bytes(self.url, self._text()))
        time.sleep(SETTLED_S)
        return self._read() == self.me

    def _text(self) -> bytes:
        return json.dumps(asdict(self.me), indent=2).encode()

    def _touch(self) -> None:
        if urls.is_remote(self.url):
            persistently(lambda: urls.write_bytes(self.url, self._text()))
        else:
            os.utime(self.url)

    def _read(self) -> Holder | None:
        try:
            return Holder.parse(persistently(lambda: urls.read_bytes(self.url)))
        except FileNotFoundError:
            return None

    @staticmethod
    def _modified(url: str) -> datetime | None:
        """When a file was last written, by the store's clock; None where there is none."""
        fs, path = urls.filesystem(url)
        fs.invalidate_cache()
        try:
            return persistently(lambda: fs.modified(path))
        except FileNotFoundError:
            return None


_held: list[Lease] = []


def check() -> None:
    """Renews every claim of this process; to be called before something is published.

    Raises:
        JobError: another run has taken one over meanwhile.
    """
    for lease in _held:
        lease.renew()


@contextlib.contextmanager
def held(folder: str, option: str = "--out", or_read_only: bool = False) -> Iterator[None]:
    """Claims a folder for the time of the block, in which no other run can.

    Args:
        folder: path or URL; it need not be there.
        option: that it was given as, for error lines.
        or_read_only: whether a folder that cannot be written is no error: nothing is claimed then.

    Raises:
        UserError: another run is at it, or it cannot be written.
    """
    lease = Lease(folder, option)
    made = _missing(lease.url)
    if not or_read_only:
        urls.require_writable(folder, option)
    try:
        lease.take()
    except OSError as error:
        if not or_read_only:
            raise UserError(f"{option} {folder}: cannot be written: {error.strerror or error}") from None
        yield
        return
    ended = threading.Event()
    threading.Thread(target=lease.renew_until, args=(ended,), name="claim", daemon=True).start()
    _held.append(lease)
    try:
        yield
    finally:
        _held.remove(lease)
        ended.set()
        lease.release()
        for path in made:  # a run that wrote nothing leaves nothing
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _missing(url: str) -> list[str]:
    """The local folders that a claim will have made, the innermost first."""
    if urls.is_remote(url):
        return []
    missing, path = [], os.path.dirname(urls.filesystem(url)[1])
    while not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _began(pid: int) -> float | None:
    """When a process of this host began, in seconds since 1970; None where the system does not tell."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def _ray_job() -> str:
    """The id under which `ray job submit` started this process; "" where it did not."""
    with contextlib.suppress(ValueError, AttributeError):
        given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(given.get("metadata", {}).get("job_submission_id", ""))
    return ""
