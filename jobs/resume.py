"""What an unfinished training is: the same options on the same data go on with it, others are refused."""

from __future__ import annotations

import json
from typing import Any

from distill import storage
from distill.errors import UserError
from jobs import options as opts

# What changes how a training runs, and not what it computes.
FREE = frozenset(
    {"workers", "threads", "out", "register_as", "promote_if", "checkpoint_every", "max_bad_fraction", "max_failures"}
)
_FILE = "training.json"


def unfinished(state_url: str, options: dict[str, Any], fingerprints: dict[str, str]) -> str | None:
    """The MLflow run of the training that was stopped here; None if there is none.

    Args:
        state_url: where a training keeps its state.
        options: of the job, as `options.as_dict` gives them.
        fingerprints: of what goes in.

    Raises:
        UserError: the state is of a training with other options or other data.
    """
    url = storage.join(state_url, _FILE)
    if not storage.exists(url):
        return None
    before = json.loads(storage.read_bytes(url))
    way_out = f"the same goes on with it; give another --out for a new one, or remove {state_url}"
    for name, value in options.items():
        if name not in FREE and before["options"].get(name) != value:
            raise UserError(
                f"{opts.flag(name)} {value}: the unfinished training in {storage.parent(state_url)} has "
                f"{before['options'].get(name)}; {way_out}"
            )
    for name, digest in fingerprints.items():
        if before["fingerprints"].get(name) != digest:
            where = storage.parent(state_url)
            raise UserError(f"{opts.flag(name)}: the unfinished training in {where} began with others; {way_out}")
    return before["mlflow_run"]


def begin(state_url: str, options: dict[str, Any], fingerprints: dict[str, str], mlflow_run: str) -> None:
    """Notes down what a training is, before its first step."""
    record = {"options": options, "fingerprints": fingerprints, "mlflow_run": mlflow_run}
    storage.write_bytes(storage.join(state_url, _FILE), json.dumps(record, indent=2).encode())
