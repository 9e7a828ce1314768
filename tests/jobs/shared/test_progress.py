from __future__ import annotations

import io
import types

import pytest

from jobs.shared import progress


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then_and_no_time_left_before_a_rate_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = progress.Progress("recordings", 17_760)
    said = []
    for after_s, done in ((20, 32), (1, 64), (16, 8_000), (10, 8_500), (5, 9_000)):
        clock.now += after_s
        bar.update(done)
        said.append(capsys.readouterr().err)
    bar.line("a look")
    bar.close()
    assert said == [
        "32/17,760 recordings 0%\n",
        "",
        "8,000/17,760 recordings 45% · 468.7/s · 0:21 left\n",
        "",
        "9,000/17,760 recordings 51% · 280.2/s · 0:31 left\n",
    ]
    assert capsys.readouterr().err == "a look\n9,000 recordings in 0:52, 173.1/s\n"


def test_a_terminal_has_one_live_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress.Progress("windows", 100)
    for done in (0, 10, 40):
        clock.now += 6
        bar.update(done)
    bar.line("a look")
    bar.close()
    assert terminal.getvalue().split("\r\033[K") == [
        "",
        "0/100 windows 0%",
        "10/100 windows 10% · 1.7/s · 0:54 left",
        "40/100 windows 40% · 3.3/s · 0:18 left",
        "a look\n",
        "40 windows in 0:18, 2.2/s\n",
    ]


def test_what_has_no_known_end_is_counted_unless_it_is_over_at_once(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    quick, slow = progress.Progress("files found"), progress.Progress("files found")
    quick.update(7)
    quick.close()
    clock.now += 60
    slow.update(70_000)
    clock.now += 3600
    slow.close()
    assert capsys.readouterr().err == "70,000 files found\n70,000 files found in 1:01:00\n"


def test_work_on_ray_is_followed(ray_started: None, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    @ray.remote
    def work(given: dict) -> None:
        given["say"](16, {})
        given["say"](32, {"val_text_mAP": 0.25})

    with progress.follow("recordings", 64) as say:
        ray.get(work.remote({"say": say}))
        say(64, {"val_text_mAP": 0.5, "val_naming_top1": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:-1] == [
        "32 recordings: val_text_mAP 0.250",
        "64 recordings: val_text_mAP 0.500, val_naming_top1 1.000",
    ]
    assert lines[-1].startswith("64 recordings in 0:")


def test_work_goes_on_when_nobody_follows_it_any_more(ray_started: None, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    with pytest.raises(ValueError, match="of the work"), progress.follow("recordings", 64) as say:
        raise ValueError("of the work")
    assert capsys.readouterr().err == ""
    ray.get(ray.remote(lambda given: (given["say"](1, {}), None)[1]).remote({"say": say}))
