"""Ray, on this machine or on the cluster that the job was submitted to."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from songsight.errors import UserError
from songsight.reasons import one_line
from songsight.store import registry

ANSWER_S = 10.0
MOST_BYTES = 32
"""Of the folder that Ray's sockets are made below: what it adds has up to 72 more, and a socket's name may have 107."""
T = TypeVar("T")


def connect() -> None:
    """Joins the cluster at `RAY_ADDRESS` (set inside `ray job submit`), or starts Ray on this machine's cores.

    Raises:
        UserError: nothing answers at `RAY_ADDRESS`, or it is not a cluster's address.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    _require_answer(address)
    # Ray would otherwise hide the GPUs from tasks that ask for none by rewriting CUDA_VISIBLE_DEVICES, and warn of it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's C++ core warns on this process's stderr of each actor that takes its arguments from the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # to count its users Ray would ask the network
    import ray

    if not ray.is_initialized():
        try:
            # The C++ core announces the level it was given on stderr. What workers print stays in Ray's own logs: the
            # job says what matters, and errors come with their traceback.
            with _without_stderr(), _own_signals(), _where(address) as where:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
        except ConnectionError as error:  # such as of a cluster that wants a token
            if not address:
                raise
            reason = str(error.__cause__ or error).strip().splitlines()[-1]  # above it lies the C++ core's traceback
            raise UserError(f"RAY_ADDRESS {address}: no job can start there: {one_line(reason)}") from None


@contextlib.contextmanager
def _where(address: str) -> Iterator[dict[str, Any]]:
    """What `ray.init` is told of the place to run at."""
    if address:
        yield {"address": address}
        return
    _provide_token()
    with tempfile.TemporaryDirectory() as empty:
        yield _short_folder() | {
            # Without an address Ray would first try the last cluster that `ray start` noted down on this machine, and
            # wait ten minutes for it where it was killed.
            "address": "local",
            "include_dashboard": False,
            # Ray has its workers import from the driver's folder first: a user's own `inference.py` there would be
            # taken for songsight's. A store in a relative file is meant from there nevertheless.
            "runtime_env": {"working_dir": empty, "env_vars": {"MLFLOW_TRACKING_URI": registry.store()}},
        }


def _provide_token() -> None:
    """Gives this Ray a token of its own where it cannot keep one in the home folder."""
    folder = os.path.expanduser("~/.ray")
    try:
        os.makedirs(folder, exist_ok=True)
        try:
            open(os.path.join(folder, "auth_token")).close()
        except FileNotFoundError:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _short_folder() -> dict[str, str]:
    """Where Ray's sockets are to lie, if their names would be too long below `RAY_TMPDIR` or `TMPDIR`.

    Raises:
        UserError: there is no such place.
    """
    given = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    if not given or len(os.fsencode(os.environ[given])) <= MOST_BYTES:
        return {}
    folder = os.path.join("/tmp", f"songsight-{os.getuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{given} {os.environ[given]}: is too long for Ray's sockets, and {folder} cannot be written "
            f"({error.strerror}); set RAY_TMPDIR to a folder whose name has at most {MOST_BYTES} bytes"
        ) from None
    return {"_temp_dir": folder}


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps what this process does at SIGTERM, which Ray would replace by an exit without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:  # Ray's own, which came meanwhile
        if stop.code == signal.SIGTERM and callable(before):
            before(signal.SIGTERM, None)
        raise
    if threading.current_thread() is threading.main_thread() and callable(before):
        signal.signal(signal.SIGTERM, before)


def connect_beside(work: Callable[[], T]) -> T:
    """`connect`, which mostly waits for other processes, while a thread does other work, such as imports.

    It is this thread that has to start Ray's processes: they end with the one that they were started by.

    Args:
        work: what to do. Its lines to stderr are shown when both are done: Ray's own are kept from there meanwhile.

    Returns:
        What it returned.

    Raises:
        UserError: see `connect`, and what `work` raises.
    """
    said = io.StringIO()
    try:
        with ThreadPoolExecutor(1) as pool, contextlib.redirect_stderr(said):
            done = pool.submit(work)
            connect()
    finally:
        sys.stderr.write(said.getvalue())
    return done.result()


def _require_answer(address: str) -> None:
    """Ray itself waits minutes for a cluster that is gone, and ends in a traceback."""
    if not address or address in ("auto", "local") or address.startswith("ray://"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise UserError(
            f"RAY_ADDRESS should be a cluster's host:port, such as 127.0.0.1:6379 (got {address}); the address of the "
            "dashboard is for `ray job submit --address`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"RAY_ADDRESS {address}: no Ray cluster answers there ({error}); unset it to use this machine"
        ) from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Silences what C++ writes to the process's stderr; Python's errors travel as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def gpus() -> int:
    """GPUs of the cluster as it stands."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def slots(gpus_each: float) -> int:
    """How many actors the cluster holds side by side as it stands, at one CPU and so many GPUs each; at least 1."""
    import ray

    resources = ray.cluster_resources()
    by_cpu = resources.get("CPU", 1)
    return max(1, int(min(by_cpu, resources.get("GPU", 0) / gpus_each) if gpus_each else by_cpu))


def is_local() -> bool:
    """Whether this is Ray on this machine alone, which no node can join."""
    return not os.environ.get("RAY_ADDRESS")


def this_node() -> str:
    """Ray's id of the node that this process runs on."""
    import ray

    return ray.get_runtime_context().get_node_id()


def require_shared(option: str, uri: str) -> None:
    """Refuses an MLflow store in a file where the workers may be on other machines, which would open other files.

    That is where the cluster spans several, or where it has no CPUs yet: a head that holds drivers alone waits for
    other nodes to be started.

    Raises:
        UserError: naming the option.
    """
    import ray

    if is_local() or not uri.startswith("sqlite:"):
        return
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1 or not ray.cluster_resources().get("CPU"):
        raise UserError(
            f"{option} {uri}: workers on other nodes of the Ray cluster cannot write to this file; start `mlflow "
            f"server --host 0.0.0.0` on a machine that all of them reach and set {option}=http://that-machine:5000"
        )
