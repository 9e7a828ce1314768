"""What `songsight annotate` prints: what came of it on stdout, the way there on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from inference.annotate.accounting import Totals
from inference.annotate.record import Record
from inference.archive.listing import Change, Listing
from jobs.shared import options as opts
from jobs.shared import progress


def change(files: Listing, changed: Change, again: bool) -> None:
    """What there is in an archive, and how that differs from what the last run saw.

    Args:
        files: of the archive.
        changed: since the last run.
        again: whether there was one.
    """
    opts.note(f"{len(files)} recordings found, {files.skipped} other files skipped")
    if files.closed:
        opts.note(f"{len(files.closed)} folders may not be looked into, such as {files.closed[0]}")
    if again:
        opts.note(
            f"since the last run: {changed.added} added, {changed.changed} changed, "
            f"{changed.retried} to be tried again, {len(changed.removed)} gone"
        )
    if len(changed.removed):
        opts.note(
            f"what is gone from the archive keeps its rows, such as {changed.removed[0]}; a new --out has none of it"
        )


def nothing_to_do(out: str, run_id: str, unreached: int) -> None:
    """That a run is finished, but for recordings that cannot be reached."""
    if unreached:
        opts.note(f"{unreached} recordings still cannot be reached")
    print(f"{out} already holds this run ({run_id}): nothing to do")


def annotated(out: str, told: Record, sums: Totals, now: Totals) -> None:
    """What came of an archive.

    Args:
        out: where the results are.
        told: the run's record.
        sums: of the recordings that are in the archive.
        now: of those that this run has heard.
    """
    partial = f", {sums.partial} of them in part" if sums.partial else ""
    print(
        f"{told.files_found} recordings in = {sums.annotated} annotated{partial} + "
        f"{sums.quarantined} quarantined; {told.skipped} other files skipped"
    )
    if sums.reasons:
        print("  quarantine: " + ", ".join(f"{count} {reason}" for reason, count in sums.reasons.items()))
    if sums.to_retry:
        print(f"  {sums.to_retry} could not be reached: the same command tries them again")
    print(
        f"{now.annotated_s / 3600:.2f} h, {now.windows} windows, {now.hits} hits in {told.elapsed_s:.0f} s "
        f"({now.annotated_s / told.elapsed_s:.0f}× real time)"
    )
    print(f"results: {out}")
    shares = told.codes
    if shares and shares["windows"]:
        print(
            f"sign codes, measured on {shares['windows']} windows: the same best species for "
            f"{shares['same_best_species']:.1%}, {shares['recall_of_images']:.1%} of the ten most similar photographs"
        )


def rematched(out: str, told: Record, source: str, windows: int) -> None:
    """What came of matching a run's windows again.

    Args:
        out: where the results are.
        told: the run's record.
        source: the run that kept the windows.
        windows: that were matched now.
    """
    print(
        f"{told.hours:.2f} h in {told.windows} kept windows, {windows} of them matched, {told.hits} hits in "
        f"{told.elapsed_s:.0f} s; recordings and quarantine are those of {source}"
    )
    print(f"results: {out}")


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Says now and then how far something without a known end is; nothing where it is over at once."""
    tally = progress.Progress(what)
    yield tally.update
    tally.close()
