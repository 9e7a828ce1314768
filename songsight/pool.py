"""Work spread over a Ray cluster: results as they are done, by actors that stay or by tasks.

It is Ray's core alone. Ray Data has pools too, and keeps three processes beside them which have to start first and then
wake a hundred times a second each; what it keeps of each block grows with the archive. Here nothing is kept of work
that is done, and work may come from an iterator that never fits in memory.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from songsight.errors import JobError

TASKS_AHEAD = 4
"""Tasks handed to Ray for each CPU of the cluster: what is waiting there is not waited for."""
PATIENCE_S = 60.0
TRIES = 3
"""Starts of a task whose process ends each time, before it is taken apart; of an actor that never came up."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Actor:
    """Makes what works when it is asked to, not before.

    Of an error in an actor's own constructor Ray says that the actor died; that of a method is handed on as it is.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def prepare(self) -> None:
        if self._made is None:
            self._made = self._make()

    def work(self, item: Any) -> Any:
        self.prepare()  # where a process ended, its next one begins here
        return self._made.work(item)


def actors(
    kind: type,
    arguments: dict[str, Any],
    items: Iterable[Any],
    most: int,
    say: Callable[[str], None] = lambda line: None,
    **resources: Any,
) -> Iterator[Any]:
    """What `kind(**arguments).work(item)` returns for each item, as items are done.

    All actors are asked for at once and take work as they come up, so that they grow with a cluster that starts nodes
    for them; one at a time each, for which of them will be the slowest is not known. What a process or node that ended
    was at work on is begun again by its next actor.

    Args:
        kind: a class, importable by name.
        arguments: of its constructor.
        items: what is to be worked on, none of it None; taken from as actors are free.
        most: actors side by side.
        say: called with a line when none of them could start for a minute.
        resources: of an actor, and other options of `ray.remote`.

    Raises:
        Exception: what the constructor or the work raised.
        JobError: the process of an actor ended each of `TRIES` times before it was made.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, RayTaskError

    items = iter(items)
    first = list(itertools.islice(items, most))
    named: Any = type(kind.__name__, (_Actor,), {})  # which Ray shows
    remote: Any = ray.remote(named).options(max_restarts=-1, max_task_retries=-1, **resources)
    starting: dict[Any, Any] = {}
    for _ in first:
        actor = remote.remote(functools.partial(kind, **arguments))
        starting[actor.prepare.options(max_task_retries=TRIES - 1).remote()] = actor
    items = itertools.chain(first, items)
    busy: dict[Any, Any] = {}
    patient = True
    try:
        while starting or busy:
            done, _ = ray.wait([*starting, *busy], timeout=PATIENCE_S if patient else None)
            if not done:
                patient = False
                if not busy:
                    say(f"no node has had room for {kind.__name__} yet: see `ray status` for what the cluster lacks")
            for ref in done:
                worked = ref in busy
                actor = (busy if worked else starting).pop(ref, None)
                if actor is None:  # came up when nothing was left for it
                    continue
                try:
                    result = ray.get(ref)
                except RayTaskError as error:
                    raise error.cause from error
                except ActorUnavailableError as error:
                    raise JobError(
                        f"the process of {kind.__name__} ended each of {TRIES} times that it was started: is there "
                        "memory enough for it? Ray's lines above say how it ended"
                    ) from error
                item = next(items, None)
                if item is not None:
                    busy[actor.work.remote(item)] = actor
                else:
                    # Their places may be waited for by an actor that lost its own.
                    for idle in [actor, *starting.values()]:
                        ray.kill(idle)
                    starting.clear()
                if worked:
                    yield result
    finally:
        for actor in [*starting.values(), *busy.values()]:
            ray.kill(actor)


def tasks(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    instead: Callable[[Item], Iterable[Item]] | None = None,
) -> Iterator[Result]:
    """What `work(item)` returns for each item, as items are done; a CPU each. One whose process ended is begun again.

    Args:
        work: sent to the nodes once.
        items: taken as tasks are done, some of them ahead.
        instead: gives what to work on in place of an item whose process ended each of `TRIES` times, such as its
            parts; without it an item is begun again for ever.

    Raises:
        Exception: what the work raised.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    task: Any = ray.remote(work).options(num_cpus=1, max_retries=TRIES - 1 if instead else -1)
    ahead = TASKS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    items = iter(items)
    waiting: dict[Any, Item] = {task.remote(item): item for item in itertools.islice(items, ahead)}
    while waiting:
        done, _ = ray.wait([*waiting])
        for ref in done:
            item = waiting.pop(ref)
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                raise error.cause from error
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
                if instead is None:
                    raise
                waiting |= {task.remote(part): part for part in instead(item)}
                continue
            waiting |= {task.remote(item): item for item in itertools.islice(items, 1)}
            yield result
