from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from songsight.audio.reader import AudioError, StorageError
from songsight.store import retry


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """An action that fails so often before it succeeds, and the list that its calls are noted in."""
    calls: list[int] = []

    def action() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return action, calls


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    return pauses


def test_a_failing_store_is_waited_for(slept: list[float]) -> None:
    action, calls = failing(3, StorageError("unreadable", "storage failed: 500"))
    assert retry.patiently(action) == "done"
    assert len(calls) == 4
    assert slept == list(retry.PAUSES_S)


def test_a_store_that_stays_away_is_given_up_without_another_pause(slept: list[float]) -> None:
    action, calls = failing(9, StorageError("unreadable", "storage failed: 500"))
    with pytest.raises(StorageError):
        retry.patiently(action)
    assert len(calls) == 4
    assert slept == list(retry.PAUSES_S)


def test_a_bad_file_is_not_asked_for_twice(slept: list[float]) -> None:
    action, calls = failing(9, AudioError("empty", "no bytes"))
    with pytest.raises(AudioError):
        retry.patiently(action)
    assert (len(calls), slept) == (1, [])


@pytest.mark.parametrize("kind", [errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ENOENT])
def test_what_lasts_is_not_waited_for(slept: list[float], kind: int) -> None:
    action, calls = failing(9, OSError(kind, os.strerror(kind)))
    with pytest.raises(OSError, match=os.strerror(kind)):
        retry.persistently(action)
    assert (len(calls), slept) == (1, [])


def test_what_may_pass_is_waited_for(slept: list[float]) -> None:
    action, calls = failing(2, OSError(errno.EIO, "input/output error"))
    assert retry.persistently(action) == "done"
    assert len(calls) == 3
