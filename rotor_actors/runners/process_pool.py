"""A pool of processes for steps that would keep this one busy.

Why one of our own: `concurrent.futures` and loky cannot end one call, and lose all workers with one; Pebble's workers
share a pipe, which one that dies in the middle of a message spoils; `anyio.to_process` speaks over the worker's
standard output, so that a step which starts a talkative program breaks it.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from rotor_actors.runners.worker import NotBegunError, Worker
from rotor_actors.step_runner import StepCall, check_importable

__all__ = ["ProcessPoolRunner"]

T = TypeVar("T")

# A worker may die while it has nothing to do: the step that it would have had next goes to another. When these die, too,
# there is more wrong than that.
_MOST_WORKERS = 3


class ProcessPoolRunner:
    """Executes steps in processes of this machine. For one runtime at a time, which closes it.

    Args:
        max_workers: how many at a time; further steps wait, and their timeout does not count meanwhile. None: as many
            as there are processors.
        max_steps_per_worker: after so many a process is replaced by a fresh one, for code that leaks memory. None: never.

    A process is started when it is first needed and kept for the steps that follow. It is spawned: it imports the
    program's main module anew, so a script must open its runtime under `if __name__ == "__main__":`. Functions must be
    importable by name; async ones are run by a loop of their own. Arguments and results are pickled on the way, and
    the result then goes through the step's codec as ever. Context variables and log handlers stay behind.

    A step that is cancelled or times out has its process killed (with what that has started) and replaced, others are
    not touched. A process that dies by itself fails its step with `WorkerLostError`, which retries heed; a step that it
    had not begun goes to another. When this
    process dies its workers end, too.

    Raises:
        ValueError: a number is none, or below 1.
    """

    def __init__(self, max_workers: int | None = None, *, max_steps_per_worker: int | None = None) -> None:
        chosen = (os.cpu_count() or 1) if max_workers is None else max_workers
        self._max_workers = _checked("max_workers", chosen)
        self._max_steps = (
            math.inf if max_steps_per_worker is None else _checked("max_steps_per_worker", max_steps_per_worker)
        )
        self._limiter: anyio.CapacityLimiter | None = None
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []

    @property
    def pids(self) -> list[int]:
        """The processes that are there, for looking."""
        return sorted(worker.pid for worker in self._workers if worker.pid is not None)

    async def execute(self, call: StepCall, began: Callable[[], None]) -> Any:
        """See `StepRunner`."""
        check_importable(call)
        if self._limiter is None:  # made late: it belongs to the loop that runs then
            self._limiter = anyio.CapacityLimiter(self._max_workers)
        async with self._limiter:
            reply = await self._executed(call, began)
        return reply()

    async def _executed(self, call: StepCall, began: Callable[[], None]) -> Callable[[], Any]:
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                began()

        for _ in range(_MOST_WORKERS - 1):
            try:
                return await self._executed_by(self._take(), call, begin)
            except NotBegunError:
                continue
        worker = self._take()
        try:
            return await self._executed_by(worker, call, begin)
        except NotBegunError as error:
            raise worker.lost(call, error) from error

    async def _executed_by(self, worker: Worker, call: StepCall, begin: Callable[[], None]) -> Callable[[], Any]:
        try:
            await _in_thread(worker.make_ready)
            begin()
            reply = await _in_thread(partial(worker.execute, call))
        except NotBegunError as error:
            is_wanted = worker in self._workers
            await self._end(worker)
            if not is_wanted:  # the pool was closed meanwhile: no other takes its place
                raise worker.lost(call, error) from error
            raise
        except (OSError, EOFError) as error:
            await self._end(worker)
            raise worker.lost(call, error) from error
        except BaseException:  # cancelled: what it does must not go on
            await self._end(worker)
            raise
        if worker.calls < self._max_steps and worker in self._workers:
            self._idle.append(worker)
        else:
            self._workers.discard(worker)
            worker.dismiss()
            await _in_thread(worker.join)
        return reply

    def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._workers.discard(worker)  # somebody has ended it while it had nothing to do
        if not self._workers:  # registered after multiprocessing's own, and so called before it waits for our processes
            atexit.register(self._kill_all)
        worker = Worker()
        self._workers.add(worker)
        return worker

    async def _end(self, worker: Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        await _in_thread(worker.join)

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.kill()

    async def close(self) -> None:
        """See `StepRunner`. Used again, it starts processes again."""
        idle, self._idle = self._idle, []
        workers, self._workers = self._workers, set()
        atexit.unregister(self._kill_all)
        for worker in idle:
            worker.dismiss()
        for worker in workers.difference(idle):
            worker.kill()
        for worker in workers:
            await _in_thread(worker.join)


async def _in_thread(function: Callable[[], T]) -> T:
    """Cancelled, it does not wait for the function: that ends with its worker."""
    unlimited = anyio.CapacityLimiter(math.inf)
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=unlimited)


def _checked(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name} must be a number of at least 1, or None; got {value!r}")
    return value
