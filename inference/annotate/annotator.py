"""decode → mel → embed → match: what one actor does with a unit of work.

Decoding threads fill a short queue, span by span, while the actor's own thread embeds what is there in full batches
across recordings. A unit's hits are written as one file whose name is the unit's, whole or not at all: to annotate a
unit twice leaves what annotating it once leaves. Until then `journal` keeps what is finished.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from inference.annotate.journal import End, Journal
from inference.annotate.ledger import Ledger, Tries
from inference.annotate.plan import versions
from inference.annotate.throughput import Pace
from inference.archive.sites import UNKNOWN
from inference.archive.spans import Span, Unit, Windows, cuts
from inference.match import codes, embeddings
from inference.match import gallery as galleries
from inference.match.scoring import Scorer, Scoring
from songsight.audio import channels
from songsight.audio.padding import fit_length
from songsight.audio.reader import AudioError, StorageError, is_silent, open_audio, read_mono
from songsight.models import encoder
from songsight.store import tables, urls
from songsight.store.retry import PAUSES_S

QUEUED_SPANS = 4
LENGTH_TOLERANCE_S = 0.1

STAGED_HITS = tables.HITS.append(pa.field("date", pa.string()))
"""Hits with the day that they are filed under."""


@dataclass(frozen=True)
class Settings:
    """What decides an actor's results.

    Attributes:
        run_id: of the annotation run.
        archive: URL that recordings' paths are below.
        out: URL that hits and finished units go to.
        model, gallery: names or URLs.
        windows: how recordings are cut.
        top_k: species a window may have.
        min_score: lowest cosine of a hit.
        species: the only scientific names that may be hit; None for all of the gallery.
        batch_size: windows in one pass of the encoder.
        device: cpu or cuda.
        threads: CPU threads of the encoder.
        decoders: recordings that are decoded side by side.
        scoring: how species are scored.
        embeddings: how the windows' vectors are kept.
        precision: of the encoder: fp32 or bf16.
        command: a name of the command's own, another one each time it is given.
        channel: which one of each recording is heard, see `channels.parse`.
    """

    run_id: str
    archive: str
    out: str
    model: str
    gallery: str
    windows: Windows
    top_k: int
    min_score: float
    species: tuple[str, ...] | None
    batch_size: int
    device: str
    threads: int
    decoders: int = 1
    scoring: Scoring = field(default_factory=Scoring)
    embeddings: embeddings.Kind = "none"
    precision: str = "fp32"
    command: str = field(default_factory=lambda: uuid.uuid4().hex)
    channel: str = channels.MEAN


@dataclass(frozen=True)
class _Window:
    path: str
    start_s: float
    end_s: float
    padded: bool  # the recording ends inside it
    samples: np.ndarray = field(repr=False)


class Annotator:
    """A Ray actor that turns units into files of hits.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.out, settings.run_id)
        self.pace = Pace()
        self.writer = ThreadPoolExecutor(1)
        self._load_encoder()
        shown = galleries.read(settings.gallery, thumbnails=False)
        if settings.species is not None:
            shown = shown.where(np.isin(shown.species.astype(str), list(settings.species)))
        self.gallery = shown
        self.scorer = Scorer(shown, settings.top_k, settings.scoring)
        self.image_ids = shown.images["image_id"].to_pylist()
        self.image_paths = shown.images["path"].to_pylist()

    def _load_encoder(self) -> None:
        import torch

        self.torch = torch
        if self.settings.device == "cpu":
            torch.set_num_threads(self.settings.threads)
        self.student = encoder.load(self.settings.model, self.settings.device, self.settings.precision)
        encoder.tower(self.student).register_forward_hook(self.pace.saw)

    def work(self, text: str) -> tuple[str, str]:
        """Annotates a unit.

        Args:
            text: the unit, see `encode_unit`.

        Returns:
            (outcome, pace): JSON texts: the unit's name and what became of each recording in it; see `Pace.stop`.
        """
        self.pace.start()
        return self._annotate(*decode_unit(text)), self.pace.stop()

    def _annotate(self, unit: Unit, facts: dict[str, dict[str, Any]]) -> str:
        tries = Tries(self.ledger, unit.name, self.settings.command)
        self.journal = Journal(
            self.ledger,
            unit,
            {path: fact["version"] for path, fact in facts.items()},
            STAGED_HITS,
            lambda heard: _filed(heard, facts),
            self.writer,
            tries.again,
        )
        pending: list[_Window] = []
        for item in self._decode(self.journal.left, tries, facts):
            if isinstance(item, End):
                self.journal.ended(item)
                continue
            self.journal.decoded()
            pending.append(item)
            if len(pending) == self.settings.batch_size:
                self.journal.matched(self._hits(pending, facts))
                pending = []
        if tries.careful:
            tries.at("")
        if pending:
            self.journal.matched(self._hits(pending, facts))
        finished = self.journal.finish()
        tries.done()
        return finished

    def _hits(self, windows: list[_Window], facts: dict[str, dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Each window's rows, best first."""
        settings = self.settings
        found = self.scorer.match(
            self._vectors(windows),
            [facts[window.path] for window in windows],
            [window.start_s for window in windows],
        )
        probabilities = self.scorer.probabilities(found)
        rows: list[list[dict[str, Any]]] = [[] for _ in windows]
        for w, window in enumerate(windows):
            known = facts[window.path]
            start: datetime | None = known["start_utc"]
            for k, species in enumerate(found.species[w]):
                score = float(found.scores[w, k])
                if score < settings.min_score:
                    break
                probable = float(probabilities[w, k]) if probabilities is not None else None
                if probable is not None and probable < settings.scoring.min_probability:
                    continue
                name = str(self.scorer.species[species])
                rows[w].append(
                    {
                        "run_id": settings.run_id,
                        "recording": window.path,
                        "site": known["site"],
                        "date": _date(known, window.start_s),
                        "start_utc": start + timedelta(seconds=window.start_s) if start else None,
                        "start_s": window.start_s,
                        "end_s": window.end_s,
                        "padded": window.padded,
                        "rank": k + 1,
                        "scientific_name": name,
                        "common_name": self.scorer.common_names[name],
                        "score": score,
                        "probability": probable,
                        "images": [
                            {"image_id": self.image_ids[row], "path": self.image_paths[row], "score": float(cosine)}
                            for row, cosine in zip(found.images[w, k], found.image_scores[w, k], strict=True)
                            if row >= 0
                        ],
                        "model": settings.model,
                        "method": settings.scoring.method,
                    }
                )
        return rows

    def _vectors(self, windows: list[_Window]) -> np.ndarray:
        """The windows' vectors, float32 [windows, width]; they are kept where the run keeps them."""
        mel = self.student.mel
        waves = np.stack([fit_length(window.samples, mel.clip_samples, mel.padding) for window in windows])
        vectors = self.student.embed(self.torch.from_numpy(waves)).float().cpu().numpy()
        kind = self.settings.embeddings
        if kind != "none":
            paths = [window.path for window in windows]
            starts_s, ends_s = [window.start_s for window in windows], [window.end_s for window in windows]
            self.journal.heard(embeddings.table(kind, paths, starts_s, ends_s, vectors))
        if kind == "binary" and not self.journal.kept.windows:
            # Of each unit's first windows: to match every one twice would cost as much as matching.
            self.journal.kept = codes.kept(vectors, self.scorer.matcher)
        return vectors

    def _decode(self, spans: Sequence[Span], tries: Tries, facts: dict[str, dict[str, Any]]) -> Iterator[_Window | End]:
        """The windows of spans as they come out of the decoding threads, and each span's end behind its windows."""
        files: dict[str, list[Span]] = defaultdict(list)
        for span in spans:
            files[span.path].append(span)
        waiting: queue.SimpleQueue[tuple[str, list[Span]]] = queue.SimpleQueue()
        for item in files.items():
            waiting.put(item)
        ready: queue.Queue[list[_Window | End] | BaseException] = queue.Queue(QUEUED_SPANS + self.settings.decoders)
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    try:
                        path, mine = waiting.get_nowait()
                    except queue.Empty:
                        return
                    if path in tries.hopeless:
                        for span in mine:
                            ready.put([End(path, 0, 0, "crashed", "a process that decoded it ended each time", span)])
                        continue
                    if tries.careful:
                        tries.at(path)
                    for group in self._windows_of(path, mine, facts[path]["frames"]):
                        ready.put(group)
            except BaseException as error:
                ready.put(error)

        side_by_side = 1 if tries.careful else min(self.settings.decoders, len(files))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(side_by_side)]
        for thread in threads:
            thread.start()
        left = len(spans)
        try:
            while left:
                group = ready.get()
                if isinstance(group, BaseException):
                    raise group
                yield from group
                left -= 1
        finally:
            stop.set()

    def _windows_of(self, path: str, spans: list[Span], frames: int | None) -> Iterator[list[_Window | End]]:
        """One recording's windows, span by span.

        A span that cannot be decoded takes no other with it: what a recording gives does not depend on which of its
        spans are in this unit. Where the recording cannot even be opened, all of them end with the same reason.
        """
        ended = failures = 0
        while True:
            try:
                with open_audio(urls.below(self.settings.archive, path), frames) as reader:
                    for span in spans[ended:]:
                        group = self._cut_safely(reader, span)
                        ended += 1
                        failures = 0
                        yield group
                return
            except StorageError as error:
                # The store failed, not the file: it may have recovered a moment later.
                reason, detail = error.reason, error.detail
                if failures == len(PAUSES_S):
                    break
                time.sleep(PAUSES_S[failures])
                failures += 1
            except AudioError as error:
                reason, detail = error.reason, error.detail
                break
            except Exception as error:
                reason, detail = _unforeseen(error)
                break
        for span in spans[ended:]:
            yield [End(path, 0, 0, reason, detail, span)]

    def _cut_safely(self, reader: Any, span: Span) -> list[_Window | End]:
        """`_cut`; what cannot be decoded is the end of this span, or, where single samples are to blame, of a window.

        Raises:
            StorageError: the store failed, not the file.
        """
        try:
            return self._cut(reader, span)
        except StorageError:
            raise
        except AudioError as error:
            if error.reason != "not-finite" or span.count == 1:
                return [End(span.path, 0, 0, error.reason, error.detail, span)]
        except Exception as error:
            return [End(span.path, 0, 0, *_unforeseen(error), span)]
        windows: list[_Window | End] = []
        ends: list[End] = []
        for number in range(span.first, span.first + span.count):
            *found, end = self._cut_safely(reader, Span(span.path, number, 1))
            windows += found
            ends.append(end)  # type: ignore[arg-type]
        first = next((end for end in ends if end.reason), ends[0])
        heard, silent = sum(end.windows for end in ends), sum(end.silent for end in ends)
        return [*windows, End(span.path, heard, silent, first.reason, first.detail, span, _note(reader))]

    def _cut(self, reader: Any, span: Span) -> list[_Window | End]:
        """The windows of one span, read in one go.

        Windows of digital silence are counted and left out: there is nothing in them to name.
        """
        windows, mel = self.settings.windows, self.student.mel
        rate = mel.sample_rate_hz
        places = cuts(span, windows, rate)
        begin = places[0][0]
        end_s = min(places[-1][1] / rate, reader.info.duration_s)
        samples = read_mono(reader, begin / rate, end_s, rate, self.settings.channel)
        if span.first == 0 and 0 < len(samples) < mel.fft_size:
            least = f"{mel.fft_size / rate * 1000:.0f} ms"
            return [End(span.path, 0, 0, "too-short", f"{len(samples) / rate * 1000:.1f} ms; {least} are needed", span)]
        out: list[_Window | End] = []
        silent = decoded = 0
        for number, (start, end) in enumerate(places, span.first):
            wave = samples[start - begin : end - begin]
            if len(wave) < (mel.fft_size if number else 1):  # less than one frame of the features is not worth a window
                break
            decoded += 1
            if is_silent(wave):
                silent += 1
                continue
            start_s = number * windows.hop_s
            out.append(_Window(span.path, start_s, start_s + len(wave) / rate, len(wave) < end - start, wave))
        # Lossy formats' headers tell the length to within a packet or two.
        ended_s = (begin + len(samples)) / rate
        short = end_s - ended_s > LENGTH_TOLERANCE_S
        detail = (
            f"the header promises {reader.info.duration_s:.2f} s, decoding ends at {ended_s:.2f} s" if short else ""
        )
        out.append(End(span.path, decoded, silent, "truncated" if short else "", detail, span, _note(reader)))
        return out


def _note(reader: Any) -> str:
    return "; ".join(reader.notes)


def _unforeseen(error: Exception) -> tuple[str, str]:
    """Decoders have bugs that only one file in a million meets: that file's fate is its own."""
    return "unreadable", f"{type(error).__name__}: {' '.join(str(error).split())}"


def _date(known: dict[str, Any], start_s: float) -> str:
    """The day of a window, `2024-05-14`: in UTC, or by the recorder's own clock where that is all that is known."""
    start: datetime | None = known["start_utc"] or known["start_local"]
    return (start + timedelta(seconds=start_s)).strftime("%Y-%m-%d") if start else UNKNOWN


def _filed(heard: pa.Table, facts: dict[str, dict[str, Any]]) -> pa.Table:
    """Embeddings with the site and day that they are filed under."""
    places = list(zip(heard["recording"].to_pylist(), heard["start_s"].to_pylist(), strict=True))
    sites = pa.array([facts[path]["site"] for path, _ in places], pa.string())
    dates = pa.array([_date(facts[path], start_s) for path, start_s in places], pa.string())
    return heard.append_column("site", sites).append_column("date", dates)


def encode_unit(unit: Unit, facts: pa.Table) -> str:
    """A unit and what the inventory knows of its recordings, as one JSON text, for Ray."""
    known = {
        row["path"]: {
            "site": row["site"],
            "start_utc": _iso(row["start_utc"]),
            "start_local": _iso(row["start_local"]),
            "latitude": row["latitude"],
            "longitude": row["longitude"],
            "frames": round(row["duration_s"] * row["sample_rate_hz"]),
            "version": version,
        }
        for row, version in zip(
            facts.to_pylist(),
            versions(facts).to_pylist(),
            strict=True,
        )
    }
    spans = [(span.path, span.first, span.count) for span in unit.spans]
    return json.dumps({"name": unit.name, "spans": spans, "facts": known})


def decode_unit(text: str) -> tuple[Unit, dict[str, dict[str, Any]]]:
    """The inverse of `encode_unit`; the facts come as one dict a recording, with times as datetimes."""
    raw = json.loads(text)
    facts = {
        path: fact | {name: _moment(fact[name]) for name in ("start_utc", "start_local")}
        for path, fact in raw["facts"].items()
    }
    return Unit(raw["name"], tuple(Span(*span) for span in raw["spans"])), facts


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
