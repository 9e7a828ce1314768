"""Pools on Ray with real processes: what is lost of them when one ends, and what their errors say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from songsight import pool
from songsight.errors import JobError, UserError


class Counting:
    """Squares a number, and notes in a folder that it did so, and in which process."""

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self.folder, self.wait_s = folder, wait_s

    def work(self, number: int) -> int:
        begun = self.folder / f"{number}-{os.getpid()}"
        begun.touch()
        if number == 3 and len(list(self.folder.glob("3-*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.wait_s)
        return number**2


class Refusing:
    """Cannot be made, or cannot work."""

    def __init__(self, at_once: Exception | None = None) -> None:
        if at_once:
            raise at_once

    def work(self, number: int) -> int:
        raise UserError(f"{number} is no number")


class Dying:
    """Its process ends before it is made, so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        (folder / str(os.getpid())).touch()
        if len(list(folder.iterdir())) <= times:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(self, number: int) -> int:
        return -number


def test_every_item_is_worked_on_though_a_process_is_killed(ray_started: None, tmp_path: Path) -> None:
    assert sorted(pool.actors(Counting, {"folder": tmp_path}, range(20), 2, num_cpus=1)) == [n**2 for n in range(20)]
    begun = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(begun, key=int) == sorted([*map(str, range(20)), "3"], key=int)  # what ended is begun again, alone


def test_work_is_taken_as_actors_are_free(ray_started: None, tmp_path: Path) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 101):  # noqa: B007
            yield 10

    results = pool.actors(Counting, {"folder": tmp_path}, items(), 2, num_cpus=1)
    assert next(results) == 100
    assert taken <= 4
    results.close()  # type: ignore[attr-defined]


def test_more_actors_than_there_is_room_for_do_not_hold_it_up(ray_started: None, tmp_path: Path) -> None:
    given = {"folder": tmp_path, "wait_s": 0.1}
    assert sorted(pool.actors(Counting, given, range(4, 12), 64, num_cpus=1)) == [n**2 for n in range(4, 12)]


def test_no_items_need_no_actor(ray_started: None) -> None:
    assert list(pool.actors(Refusing, {"at_once": UserError()}, [], 2, num_cpus=1)) == []


def test_an_actors_error_is_its_own(ray_started: None) -> None:
    with pytest.raises(UserError, match=r"^7 is no number$"):
        list(pool.actors(Refusing, {}, [7], 2, num_cpus=1))


@pytest.mark.parametrize("error", [UserError("--model m: no such folder"), ValueError("no such thing")])
def test_a_constructors_error_is_its_own(ray_started: None, error: Exception) -> None:
    with pytest.raises(type(error), match=f"^{error}$"):
        list(pool.actors(Refusing, {"at_once": error}, [7, 8, 9], 2, num_cpus=1))


def test_an_actor_whose_process_ends_while_it_is_made_is_made_again(ray_started: None, tmp_path: Path) -> None:
    assert list(pool.actors(Dying, {"folder": tmp_path, "times": 2}, [7], 1, num_cpus=1)) == [-7]


def test_but_not_for_ever(ray_started: None, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="the process of Dying ended each of 3 times that it was started"):
        list(pool.actors(Dying, {"folder": tmp_path, "times": 99}, [7], 1, num_cpus=1))
    assert len(list(tmp_path.iterdir())) == 3


def test_what_no_node_has_is_said(ray_started: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PATIENCE_S", 0.2)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        raise KeyboardInterrupt  # as a user might

    with pytest.raises(KeyboardInterrupt):
        list(pool.actors(Counting, {"folder": tmp_path}, [1], 1, say, num_cpus=1, resources={"unobtainium": 1}))
    assert said == ["no node has had room for Counting yet: see `ray status` for what the cluster lacks"]


def test_tasks_give_every_result_though_a_process_is_killed(ray_started: None, tmp_path: Path) -> None:
    counting = Counting(tmp_path)
    assert sorted(pool.tasks(lambda number: counting.work(number), range(200))) == [n**2 for n in range(200)]
    assert len(list(tmp_path.glob("3-*"))) == 2


def test_a_tasks_error_is_its_own(ray_started: None) -> None:
    with pytest.raises(UserError, match=r"^1 is no number$"):
        list(pool.tasks(lambda number: Refusing().work(number), [1]))
