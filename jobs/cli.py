"""The `songsight` command: one subcommand a job.

    songsight --help
    songsight annotate --archive s3://forest/2025 --gallery gallery --model model --out annotated

`python -m jobs.annotate …` runs the same job. Only the chosen job's module is imported, and it imports torch, Ray and
the like when it starts to work, so that help and a wrong option answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

from songsight.errors import JobError, UserError

JOBS = {
    "demo": "run everything on a small procedural world, and open a page of what was found",
    "manifest": "turn a data set into the recordings or images table",
    "distill": "train an audio encoder into a vision model's text space",
    "sweep": "distil with several settings and say which was best",
    "evaluate": "measure sound-to-image retrieval, naming and kNN against baselines",
    "gallery": "embed photographs of species once, for matching",
    "annotate": "find what sang in an archive: species hits matched with photographs",
    "calibrate": "fit probabilities to hits' scores from labelled recordings",
    "report": "draw the page of an annotated archive",
}


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _Results:
    """Standard output for the main thread, whose results go there; what Ray's threads print goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        mine = threading.current_thread() is threading.main_thread()
        return (self._stream if mine else sys.stderr).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def usage() -> str:
    """The text of `songsight --help`."""
    width = max(map(len, JOBS))
    lines = [f"  {name:<{width}}  {what}" for name, what in JOBS.items()]
    return "\n".join(
        [
            "usage: songsight JOB [OPTIONS]",
            "",
            "songsight tells what sang in a recording, and shows it.",
            "",
            "jobs:",
            *lines,
            "",
            "`songsight JOB --help` lists a job's options; `--config run.yaml` sets the same ones from a file.",
        ]
    )


def command(*words: str) -> NoReturn:
    """The process of `songsight …`: runs `main` on these words and the command line's, and ends with its exit code."""
    sys.stdout = _Results(sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not what `nohup` ignores
            signal.signal(number, _terminate)
    try:
        main([*words, *sys.argv[1:]])
    except SystemExit as stop:
        leave(stop.code if isinstance(stop.code, int) else 0)
    leave(0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough
    raise Terminated(number)


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code and Ray with it, without the interpreter taking its memory apart.

    Arrow reads in threads of its own, which may still hold a Python file when the answer has long been given. Where
    one of them asks for the interpreter's lock while Python 3.11 finalizes, the process aborts with 134, whatever the
    job's exit code was (https://github.com/apache/arrow/issues/34314).

    The code is another one where what was printed cannot be written: 141 where its reader went away, else 1 and a line
    that says why.
    """
    # What Ray still has to say is no result.
    with contextlib.suppress(KeyboardInterrupt), contextlib.redirect_stdout(sys.stderr):
        ray = sys.modules.get("ray")
        if ray and hasattr(ray, "shutdown"):  # a thread may just be importing it
            ray.shutdown()
    logging.shutdown()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except OSError as error:
        print(f"songsight: error: what was printed cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one job; exits with 0 when it is done, 2 for bad input, 1 for another failure, 130 when interrupted.

    Ended by another signal it exits with 128 and the signal's number, such as 143 for SIGTERM.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"songsight {version('songsight')}")
        sys.exit(0)
    job, rest = args[0], args[1:]
    if job not in JOBS:
        near = difflib.get_close_matches(job, JOBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" (jobs: {', '.join(JOBS)})"
        print(f"songsight: error: no job {job!r}{hint}", file=sys.stderr)
        sys.exit(2)
    run_job(job, rest)


def run_job(job: str, args: Sequence[str] | None = None) -> None:
    """Parses a job's options and runs it, with errors turned into one line and an exit code.

    Args:
        job: a name in `JOBS`, whose module has `Options`, `__doc__` and `main(options)`.
        args: the words behind the job's name; `sys.argv[1:]` when None.
    """
    from jobs.shared import options

    prog = f"songsight {job}"
    module = importlib.import_module(f"jobs.{job}")
    chosen = None
    try:
        chosen = options.parse(module.Options, sys.argv[1:] if args is None else args, prog, module.__doc__ or "")
        module.main(chosen)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        print(f"{prog}: interrupted{_unfinished(chosen)}", file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:
        # The reader of our output went away (`songsight … | head`): nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)

    except Exception as error:
        full = next(filter(None, map(_full_disk, _causes(error))), None)
        if full is None:
            raise
        print(f"{prog}: error: {full}{_unfinished(chosen)}", file=sys.stderr)
        sys.exit(1)


def _unfinished(chosen: Any) -> str:
    """What there is to know of a job's results where it was cut off."""
    out = getattr(chosen, "out", None)
    return f": --out {out} is not finished; give the same command again" if out else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, also where Ray brought it from another process."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or getattr(error, "cause", None) or error.__context__


def _full_disk(error: BaseException) -> str | None:
    """What a disk without room says; None for another error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"{os.strerror(error.errno)}{where}"
    if "database or disk is full" in str(error):  # SQLite's words, from below MLflow
        return "the disk of MLFLOW_TRACKING_URI is full"
    return None


if __name__ == "__main__":
    command()
