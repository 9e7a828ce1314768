"""Progress of long work: one live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 15.0


class Progress:
    """Counts towards a total and says the rate and the time left on stderr.

    Args:
        what: the counted things, in the plural.
        total: how many there are.
    """

    def __init__(self, what: str, total: float) -> None:
        self.what = what
        self.total = total
        self.done = 0.0
        self.first: tuple[float, float] | None = None
        self.begin = time.monotonic()
        self.said = self.begin
        self.terminal = sys.stderr.isatty()

    def update(self, done: float, total: float | None = None) -> None:
        """Sets how many are done."""
        self.done = done
        if total is not None:
            self.total = total
        now = time.monotonic()
        if self.first is None:
            # What came first waited for actors to start: the rate begins behind it.
            self.first = (now, done)
        if now - self.said >= (_TERMINAL_EVERY_S if self.terminal else _LOG_EVERY_S):
            self._say(now)

    def line(self, text: str) -> None:
        """Says something else without breaking the live line."""
        print(("\r\033[K" if self.terminal else "") + text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Says the last line."""
        now = time.monotonic()
        rate = self.done / max(now - self.begin, 1e-9)
        end = "\r\033[K" if self.terminal else ""
        print(
            f"{end}{self.done:,.0f} {self.what} in {_clock(now - self.begin)}, {rate:,.1f}/s",
            file=sys.stderr,
            flush=True,
        )

    def _say(self, now: float) -> None:
        self.said = now
        assert self.first is not None
        since, before = self.first
        rate = (self.done - before) / max(now - since, 1e-9) or self.done / max(now - self.begin, 1e-9)
        left = _clock((self.total - self.done) / rate) if rate else "?"
        share = f"{self.done / self.total:.0%}" if self.total else ""
        line = f"{self.done:,.0f}/{self.total:,.0f} {self.what} {share} · {rate:,.1f}/s · {left} left"
        if self.terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


class Tally:
    """Counts what has no known end, and says on stderr how many there are.

    Args:
        what: the counted things, in the plural.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.begin = self.said = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.done = 0
        self.shown = False

    def update(self, done: int) -> None:
        """Sets how many there are."""
        self.done = done
        now = time.monotonic()
        if now - self.said >= (_TERMINAL_EVERY_S if self.terminal else _LOG_EVERY_S):
            self.said, self.shown = now, True
            start, end = ("\r\033[K", "") if self.terminal else ("", "\n")
            print(f"{start}{done:,} {self.what}", end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Says the last line, if any was said."""
        if self.shown:
            took = _clock(time.monotonic() - self.begin)
            start = "\r\033[K" if self.terminal else ""
            print(f"{start}{self.done:,} {self.what} in {took}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Follow:
    """Shows a training run's progress as MLflow has it, wherever its workers are; a context manager.

    Args:
        store: the tracking URI.
        run_id: of the run.
        total: recordings that it will have seen at its end.
    """

    def __init__(self, store: str, run_id: str, total: int) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=store)
        self.run_id = run_id
        self.bar = Progress("recordings", total)
        self.ended = threading.Event()
        self.measures: dict[str, float] = {}
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Follow:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()
        if error is None:
            self._try_to_look()
            self.bar.close()

    def _watch(self) -> None:
        while not self.ended.wait(2.0):
            self._try_to_look()

    def _try_to_look(self) -> None:
        """A look at a store that may be away: the training goes on without it, and so does the line."""
        with contextlib.suppress(Exception):
            self._look()

    def _look(self) -> None:
        now = self.client.get_run(self.run_id).data.metrics
        measures = {name: value for name, value in now.items() if name.startswith("val_")}
        if measures and measures != self.measures:
            self.measures = measures
            seen = now.get("recordings_seen", 0)
            self.bar.line(f"{seen:,.0f} recordings: " + ", ".join(f"{n} {v:.3f}" for n, v in measures.items()))
        if "recordings_seen" in now:
            self.bar.update(now["recordings_seen"])
