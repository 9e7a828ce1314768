"""Matching an archive again from the vectors that an earlier run kept: the annotator without decoding and encoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate.annotator import Annotator, Settings, _Window
from inference.annotate.journal import End
from inference.annotate.ledger import Tries
from inference.annotate.source import Source
from inference.archive.spans import Span, Unit
from inference.match import embeddings


def encode_group(group: embeddings.Group) -> str:
    """A row group as one JSON text, for Ray."""
    return json.dumps({"name": name_of(group), "group": asdict(group)})


def name_of(group: embeddings.Group) -> str:
    """The name of a row group's unit of work: a hash of where it is, and of the file's version."""
    return hashlib.sha256(repr((group.url, group.version, group.number)).encode()).hexdigest()[:16]


class Rematcher(Annotator):
    """A Ray actor that turns row groups of embeddings into files of hits.

    Args:
        settings: of the run.
        source: the run that kept the embeddings.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        self.source = source
        self.width: int = source.encoder["width"]
        super().__init__(settings)

    def _load_encoder(self) -> None:
        self.recordings = self.source.table("recordings")

    def work(self, text: str) -> tuple[str, str]:
        """Matches a row group.

        Args:
            text: the row group, see `encode_group`.

        Returns:
            (outcome, pace): as of `Annotator`.
        """
        self.pace.start()
        return self._rematch(json.loads(text)), self.pace.stop()

    def _rematch(self, raw: dict[str, Any]) -> str:
        self.rows = embeddings.read(embeddings.Group(**raw["group"]))
        paths = pc.unique(self.rows["recording"])
        known = self.recordings.take(pc.index_in(paths, self.recordings["path"])).to_pylist()
        return self._annotate(Unit(raw["name"], ()), {fact["path"]: fact | {"version": ""} for fact in known})

    def _decode(self, spans: Sequence[Span], tries: Tries, facts: dict[str, dict[str, Any]]) -> Iterator[_Window | End]:
        """The windows that were kept, with their vectors where a window has samples."""
        least_s = self.source.record.window_s - 1e-6
        columns = [self.rows[name].to_pylist() for name in ("recording", "start_s", "end_s")]
        for path, start_s, end_s, vector in zip(*columns, embeddings.vectors(self.rows, self.width), strict=True):
            yield _Window(path, start_s, end_s, end_s - start_s < least_s, vector)
        for path, count in zip(*_counts(self.rows["recording"]), strict=True):
            yield End(path, count, 0)

    def _vectors(self, windows: list[_Window]) -> np.ndarray:
        return np.stack([window.samples for window in windows])


def _counts(column: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    counted = pc.value_counts(column)
    return counted.field("values").to_pylist(), counted.field("counts").to_pylist()
