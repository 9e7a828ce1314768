"""Progress of long work on stderr: one live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 15.0
_RATE_AFTER_S = 5.0  # the first things done say little of those to come
_ANSWER_S = 10.0


class Progress:
    """Counts, and says how many are done; where there is a total also at what rate, and the time left.

    Args:
        what: the counted things, in the plural.
        total: how many there are, if that is known. Without it nothing is said of what is over at once.
    """

    def __init__(self, what: str, total: float | None = None) -> None:
        self.what, self.total, self.done = what, total, 0.0
        self.begin = self.said = time.monotonic()
        self.first: tuple[float, float] | None = None
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def update(self, done: float, total: float | None = None) -> None:
        """Sets how many are done."""
        now = time.monotonic()
        self.done = done
        self.total = self.total if total is None else total
        if self.first is None:
            # What came first waited for actors to start: the rate begins behind it.
            self.first = (now, done)
        if now - self.said >= (_TERMINAL_EVERY_S if self.terminal else _LOG_EVERY_S):
            self.said, self.shown = now, True
            self.line(self._text(now, *self.first), "" if self.terminal else "\n")

    def line(self, text: str, end: str = "\n") -> None:
        """Says something else without breaking the live line."""
        print(("\r\033[K" if self.terminal else "") + text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Says the last line."""
        took_s = time.monotonic() - self.begin
        if self.shown or self.total is not None:
            rate = "" if self.total is None else f", {self.done / max(took_s, 1e-9):,.1f}/s"
            self.line(f"{self.done:,.0f} {self.what} in {_clock(took_s)}{rate}")

    def _text(self, now: float, since: float, before: float) -> str:
        if self.total is None:
            return f"{self.done:,.0f} {self.what}"
        share = f" {self.done / self.total:.0%}" if self.total else ""
        rate = (self.done - before) / max(now - since, 1e-9) if now - since >= _RATE_AFTER_S else 0.0
        ahead = f" · {rate:,.1f}/s · {_clock((self.total - self.done) / rate)} left" if rate > 0 else ""
        return f"{self.done:,.0f}/{self.total:,.0f} {self.what}{share}{ahead}"


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class _Board:
    """An actor on the driver's node, where work on any node leaves word."""

    def __init__(self) -> None:
        self.words: list[tuple[float, dict[str, float]]] = []

    def say(self, done: float, measures: dict[str, float]) -> None:
        self.words.append((done, measures))

    def take(self) -> list[tuple[float, dict[str, float]]]:
        words, self.words = self.words, []
        return words


@contextlib.contextmanager
def follow(what: str, total: float) -> Iterator[Callable[[float, dict[str, float]], Any]]:
    """Shows the progress of work on Ray, wherever it runs.

    Args:
        what: the counted things, in the plural.
        total: how many there are.

    Yields:
        what the work calls with how many are done, and with measures by name, which are shown where there are any. It
        can be sent to any worker, and returns at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
    bar, ended = Progress(what, total), threading.Event()

    def look() -> None:
        for done, measures in ray.get(board.take.remote(), timeout=_ANSWER_S):
            bar.update(done)
            if measures:
                bar.line(f"{done:,.0f} {what}: " + ", ".join(f"{name} {value:.3f}" for name, value in measures.items()))

    def watch() -> None:
        while not ended.wait(1.0):
            look()

    def unless_ray_is_gone(work: Callable[[], None]) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the work goes on without its line
            work()

    thread = threading.Thread(target=unless_ray_is_gone, args=(watch,), daemon=True)
    thread.start()
    try:
        yield board.say.remote
    finally:
        ended.set()
        thread.join()
    unless_ray_is_gone(look)
    bar.close()
