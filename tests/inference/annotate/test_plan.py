from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inference.annotate import ledger, plan
from inference.archive import inventory as archive
from inference.archive.spans import Unit, Windows, spans_of

WINDOWS = Windows(3, 1.5)


def inventory(recordings: dict[str, float | None], size: int = 1) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"path": path, "size_bytes": size, "etag_or_mtime": "e", "duration_s": duration, "site": "s"}
        | {"reason": "" if duration else "empty", "detail": "", "cut_short": ""}
        for path, duration in sorted(recordings.items())
    ]
    return pa.Table.from_pylist(rows, archive.SEEN)


def none() -> ledger.Outcomes:
    return ledger.gather([])


def outcome(unit: Unit, version: str = "1:e") -> str:
    spans: dict[str, list[tuple[int, int]]] = {}
    for span in unit.spans:
        spans.setdefault(span.path, []).append((span.first, span.count))
    files = [
        {"path": path, "version": version, "windows": 1, "silent": 0, "hits": 0, "reason": "", "detail": "", "spans": s}
        for path, s in spans.items()
    ]
    return json.dumps({"unit": unit.name, "parts": [], "files": files})


RECORDINGS: dict[str, float | None] = {f"{number:02}.wav": 20.0 * number for number in range(1, 30)} | {"05x.wav": None}


def test_units_hold_every_span_once_and_have_names_of_their_own() -> None:
    seen = inventory(RECORDINGS)
    units = [unit for unit, _ in plan.make(seen, WINDOWS, none()).each()]
    assert [span for unit in units for span in unit.spans] == [
        span for path, duration in sorted(RECORDINGS.items()) if duration for span in spans_of(path, duration, WINDOWS)
    ]
    assert len({unit.name for unit in units}) == len(units) > 1
    assert [unit for unit, _ in plan.make(seen, WINDOWS, none()).each()] == units
    other = plan.make(seen, Windows(3, 1), none())
    assert not {unit.name for unit, _ in other.each()} & {unit.name for unit in units}
    for unit, facts in plan.make(seen, WINDOWS, none()).each():
        assert set(facts["path"].to_pylist()) == {span.path for span in unit.spans}


def test_a_long_recording_is_cut_into_units_of_an_hour() -> None:
    planned = plan.make(inventory({"day.wav": 24 * 3600.0}), Windows(10, 10), none())
    assert planned.units == 24
    assert [sum(span.count for span in unit.spans) for unit, _ in planned.each()] == [360] * 24


def test_what_must_be_decoded_from_its_start_stays_in_one_unit() -> None:
    seen = inventory({"a.wav": 5000.0, "b.ogg": 15 * 3600.0, "c.wav": 9000.0})
    sequential = pa.array([False, True, False])
    seen = seen.set_column(seen.schema.get_field_index("sequential"), "sequential", sequential)
    planned = plan.make(seen, Windows(10, 10), none())
    units = [unit for unit, _ in planned.each()]
    assert [sum(any(s.path == path for s in unit.spans) for unit in units) for path in ("a.wav", "b.ogg", "c.wav")] == [
        2,
        1,
        3,
    ]
    whole = [span for unit in units for span in unit.spans]
    assert whole == [
        span
        for path, s in zip(("a.wav", "b.ogg", "c.wav"), (5000.0, 54000.0, 9000.0), strict=True)
        for span in spans_of(path, s, Windows(10, 10))
    ]


def test_what_is_left_is_what_will_be_heard() -> None:
    """Ten windows a span of a minute; of the second recording 0–3, 6–9, … 84–87, 90–91."""
    seen = inventory({"a.wav": 600.0, "b.wav": 91.0})
    windows = Windows(3, 6)
    planned = plan.make(seen, windows, none())
    assert planned.todo_s == 100 * 3 + 15 * 3 + 1
    assert plan.make(seen, Windows(3, 1.5), none()).todo_s == 691
    units = [unit for unit, _ in planned.each() if {span.path for span in unit.spans} == {"a.wav"}]
    assert units
    left = plan.make(seen, windows, ledger.gather([outcome(unit) for unit in units]))
    spans = sum(len(unit.spans) for unit in units)
    assert left.todo_s == planned.todo_s - spans * 10 * 3


def test_nothing_to_do() -> None:
    planned = plan.make(inventory({"a.wav": None}), WINDOWS, none())
    assert (planned.units, planned.todo_windows, list(planned.each())) == (0, 0, [])


def spans_left(planned: plan.Plan) -> list[Any]:
    return [span for unit, _ in planned.each() for span in unit.spans]


@pytest.mark.parametrize("added", [{}, {"00.wav": 50.0, "17a.wav": 4.0, "99.wav": 9.0}])
def test_what_is_finished_is_not_done_again(added: dict[str, float | None]) -> None:
    """Also where the archive has grown since, and spans fall into other units."""
    units = [unit for unit, _ in plan.make(inventory(RECORDINGS), WINDOWS, none()).each()]
    finished = units[::2]
    planned = plan.make(inventory(RECORDINGS | added), WINDOWS, ledger.gather(map(outcome, finished)))
    assert sorted(planned.accepted.to_pylist()) == sorted(unit.name for unit in finished)
    done = [span for unit in finished for span in unit.spans]
    every = spans_left(plan.make(inventory(RECORDINGS | added), WINDOWS, none()))
    assert sorted(map(repr, [*spans_left(planned), *done])) == sorted(map(repr, every))


def test_outcomes_that_no_longer_hold() -> None:
    seen = inventory(RECORDINGS)
    units = [unit for unit, _ in plan.make(seen, WINDOWS, none()).each()]
    changed = ledger.gather([outcome(units[0]), outcome(units[1], version="2:e")])
    assert plan.make(seen, WINDOWS, changed).accepted.to_pylist() == [units[0].name]
    gone = inventory({path: length for path, length in RECORDINGS.items() if path != units[1].spans[0].path})
    held = plan.make(gone, WINDOWS, ledger.gather([outcome(units[1])]))
    assert held.accepted.to_pylist() == []
    longer = inventory({path: length and length + 60 for path, length in RECORDINGS.items()})
    last = [unit for unit in units if any(span.count < 40 for span in unit.spans)]
    assert plan.make(longer, WINDOWS, ledger.gather(map(outcome, last))).accepted.to_pylist() == []


def test_of_two_outcomes_with_a_span_in_common_one_holds() -> None:
    """An annotator whose driver was killed may end its unit behind the next driver's plan, which packed otherwise."""
    seen = inventory(RECORDINGS)
    units = [unit for unit, _ in plan.make(seen, WINDOWS, none()).each()]
    late = Unit("late", units[2].spans[-1:] + units[3].spans[:1])
    planned = plan.make(seen, WINDOWS, ledger.gather(map(outcome, [units[2], units[3], late])))
    assert sorted(planned.accepted.to_pylist()) == sorted([units[2].name, units[3].name])
    every = spans_left(plan.make(seen, WINDOWS, none()))
    done = [span for unit in units[2:4] for span in unit.spans]
    assert len(spans_left(planned)) == len(every) - len(done)
    assert np.bincount(planned.unit_S[planned.unit_S >= 0]).min() > 0
