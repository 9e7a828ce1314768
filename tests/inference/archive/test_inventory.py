"""The inventory: kept while it is made, and safe from files that end the process that opens them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from inference.annotate.ledger import Ledger
from inference.archive import inventory, listing, sites
from tests.jobs.annotating import archives


def test_headers_are_kept_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_started: None) -> None:
    folder = str(tmp_path / "archive")
    archives.fill(tmp_path / "archive", 0, 150, seconds=0.1)
    monkeypatch.setattr(inventory, "ROWS_PER_PART", inventory.FILES_PER_BLOCK)
    files = listing.listing(folder).table
    state = Ledger(str(tmp_path / "out"), "r")
    assert state.kept_parts("inventory") == []
    keep = partial(state.keep_part, "inventory")
    whole = inventory.inventory(files, folder, None, sites.SiteRule.parse(None, folder), keep=keep)
    parts = state.kept_parts("inventory")
    assert [len(part) for part in parts] != [150]
    kept = pa.concat_tables(parts).sort_by("path")
    assert len(kept) >= 2 * inventory.FILES_PER_BLOCK
    assert kept.to_pylist() == [row for row in whole.to_pylist() if row["path"] in set(kept["path"].to_pylist())]


POISONED = """
import json, os, sys
import ray

def poison():
    from inference.archive import inventory
    real = inventory.probe
    def probe(url):
        if url.endswith("poison.wav"):
            os.kill(os.getpid(), 9)
        return real(url)
    inventory.probe = probe

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"worker_process_setup_hook": poison})
from functools import partial
from inference.archive import inventory, listing, sites
from inference.annotate.ledger import Ledger
folder, out, state = sys.argv[1:]
files = listing.listing(folder).table
keep = partial(Ledger(out, "r").keep_part, "inventory") if state == "kept" else None
seen = inventory.inventory(files, folder, None, sites.SiteRule.parse(None, folder), keep=keep)
open(out + ".json", "w").write(json.dumps({row["path"]: row["reason"] for row in seen.to_pylist()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["kept", "of a dry run"])
def test_a_header_that_ends_the_process_is_passed_over(state: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    archives.fill(folder, 0, 5, seconds=0.5)
    archives.sing(folder / "site-1" / "poison.wav", 0.5, seed=9)
    ran = subprocess.run(
        [sys.executable, "-c", POISONED, str(folder), str(tmp_path / "out"), state],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )
    assert ran.returncode == 0, ran.stderr
    reasons = json.loads((tmp_path / "out.json").read_text())
    assert len(reasons) == 6
    assert {path: reason for path, reason in reasons.items() if reason} == {"site-1/poison.wav": "crashed"}
