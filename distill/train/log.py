"""A training's curves in MLflow, sent by rank 0.

The store is no part of the training: while it does not answer, what was measured is kept and sent later, across a
restart too. How far the training is the driver hears apart from that.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill.data.order import Order

SAY_EVERY_S = 1.0
EVERY_S = 2.0  # between two requests: one a step would cost more than a small step
LONGEST_PAUSE_S = 300.0  # between two tries while the store does not answer
LAST_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # between the tries at the end
_MOST_METRICS = 1000  # that MLflow takes in a request
# MLflow's own client would ask a server that is gone for minutes, and the training would stand still meanwhile.
_BRIEFLY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@dataclass(frozen=True)
class Tracking:
    """The MLflow run that rank 0 writes to; it is made and ended by the driver.

    Attributes:
        uri: of the store.
        run_id: the run.
        node: Ray's id of the node whose use of CPU, memory and GPUs the driver logs; empty where it logs none.
        say: called by rank 0 now and then with the recordings seen and, behind a look, the held-out measures, if it is
            given; it should return at once.
    """

    uri: str
    run_id: str
    node: str = ""
    say: Callable[[int, dict[str, float]], Any] | None = None


class TrainingLog:
    """Rank 0's; the other ranks' calls do nothing.

    Args:
        tracking: the MLflow run.
        order: of the training.
        rank: of this worker.
    """

    def __init__(self, tracking: Tracking, order: Order, rank: int) -> None:
        self.rank = rank
        self.order = order
        self.latest: dict[str, float] = {}
        self.pending: list[tuple[str, float, int, int]] = []  # name, value, unix time in ms, step
        self.later: list[Callable[[Any], None]] = []  # other things to log, given the client
        self.run_id = tracking.run_id
        self.begin = self.sent = self.said = time.perf_counter()
        self.say = tracking.say
        self.pause_s = EVERY_S
        self.first_step: int | None = None
        self.waited_s = 0.0
        if rank == 0:
            for name, value in _BRIEFLY.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=tracking.uri)
            self.node = _node_monitor(tracking)

    def step(self, step: int, waited_s: float, **values: float) -> None:
        """What a step says of itself, and how fast they are."""
        self.waited_s += waited_s
        if self.first_step is None:
            # The first batch waits for the data to start flowing: rates begin behind it.
            self.first_step, self.begin, self.waited_s = step, time.perf_counter(), 0.0
        elapsed = time.perf_counter() - self.begin
        done = step - self.first_step
        values["recordings_seen"] = step * self.order.batch_size
        if done:
            values["recordings_per_s"] = done * self.order.batch_size / elapsed
            values["data_wait_fraction"] = self.waited_s / elapsed
        self.add(step, values)
        if time.perf_counter() - self.said > SAY_EVERY_S or step == self.order.steps:
            self._say(step, {})
        if time.perf_counter() - self.sent > self.pause_s:
            self.send()

    def resumed(self, step: int, unsent: list[tuple[str, float, int, int]]) -> None:
        """Leaves a mark where the curves were interrupted, behind what could not be sent before."""
        if self.rank == 0:
            self.pending = [*unsent, *self.pending]
        self.add(step, {"resumed_from_step": step})

    def look(self, step: int, values: dict[str, float]) -> None:
        """What a look at the held-out recordings found."""
        self.latest = values
        self._say(step, values)
        self.add(step, values)
        self.send()

    def mixture(self, share: float, values: dict[str, float]) -> None:
        """What a mixture with the base's weights reaches."""
        self.add(self.order.steps, {f"wise_ft_{share:g}.{name}": value for name, value in values.items()})

    def image(self, image: Any, name: str) -> None:
        """A picture, under a file name of the run's artifacts."""
        if self.rank == 0:
            self.later.append(lambda client: client.log_image(self.run_id, image, name))
            self.send()

    def add(self, step: int, values: dict[str, float]) -> None:
        """Metrics to be sent with the next request."""
        if self.rank == 0:
            now = int(time.time() * 1000)
            self.pending += [(name, float(value), now, step) for name, value in values.items()]

    def send(self) -> bool:
        """Sends what is pending; whether all of it was. Without an answer it stays, and the next try comes later."""
        try:
            self._send()
            self.pause_s = EVERY_S
        except Exception:  # MLflow's, requests' or the database's, whichever failed
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        self.sent = time.perf_counter()
        return not self.pending and not self.later

    def close(self) -> None:
        """Sends the rest, with some patience. What cannot be sent is in the last checkpoint."""
        if self.rank:
            return
        if self.node is not None:
            self.node.finish()
        for pause_s in LAST_PAUSES_S:
            if self.send():
                return
            time.sleep(pause_s)
        self.send()

    def _say(self, step: int, measures: dict[str, float]) -> None:
        if self.rank == 0 and self.say:
            self.said = time.perf_counter()
            self.say(step * self.order.batch_size, measures)

    def _send(self) -> None:
        """Takes out of what is pending what was sent, a request at a time."""
        from mlflow.entities import Metric

        while self.pending:
            some = self.pending[:_MOST_METRICS]
            self.client.log_batch(self.run_id, metrics=[Metric(*one) for one in some])
            del self.pending[: len(some)]
        while self.later:
            self.later[0](self.client)
            del self.later[0]


def _node_monitor(tracking: Tracking) -> Any:
    """MLflow's samples of this node's use, as `system/<host>/…`; None on the driver's node, which has its own.

    `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` turns it off, as on the driver's node.
    """
    import ray

    off = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() == "false"
    if off or tracking.node in ("", ray.get_runtime_context().get_node_id()):
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        tracking.run_id, resume_logging=True, node_id=socket.gethostname(), tracking_uri=tracking.uri
    )
    monitor.start()
    return monitor
