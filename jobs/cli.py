"""The `songsight` command: one subcommand a job.

    songsight --help
    songsight annotate --archive s3://forest/2025 --gallery gallery --model model --out annotated

`python -m jobs.annotate …` runs the same job. Only the chosen job's module is imported, and it imports torch, Ray and
the like when it starts to work, so that help and a wrong option answer at once.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

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
    from jobs import ending

    try:
        main([*words, *sys.argv[1:]])
    except SystemExit as stop:
        ending.leave(stop.code if isinstance(stop.code, int) else 0)
    ending.leave(0)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one job; exits with 0 when it is done, 2 for bad input, 1 for another failure, 130 when interrupted."""
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

    # torch, Ray and MLflow make half a million objects that stay: to look through them for garbage every few hundred
    # new ones takes a quarter of the time to import them.
    gc.set_threshold(50_000, 20, 20)
    prog = f"songsight {job}"
    module = importlib.import_module(f"jobs.{job}")
    try:
        chosen = options.parse(module.Options, sys.argv[1:] if args is None else args, prog, module.__doc__ or "")
        module.main(chosen)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`songsight … | head`): nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    command()
