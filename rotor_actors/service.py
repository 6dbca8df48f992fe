"""The life of a runtime: open the store, recover, serve, drain, close. Its services run under a supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rotor_actors import set_order
from rotor_actors.engine import Engine
from rotor_actors.errors import RuntimeStateError, StoreError, StoreFullError
from rotor_actors.loader import Loader
from rotor_actors.ports import Options, Ports
from rotor_actors.records import ItemRow, RunRow
from rotor_actors.recovery import Recovery, find_adopters
from rotor_actors.replicas.replica import Replica
from rotor_actors.retention_keeper import RetentionKeeper
from rotor_actors.run import Run
from rotor_actors.run_actor import RunActor
from rotor_actors.shard_names import check_is_no_shard
from rotor_actors.stores.base import ItemQuery, Store
from rotor_actors.stores.shared import is_shared
from rotor_actors.workflows import Workflow
from supervisors import ChildInfo, ChildSpec, MaxRestartsExceeded, Supervisor

_logger = logging.getLogger("rotor_actors")

_LOOK_SECONDS = 0.005
_BLOCKED_PASSES = 30
_STOP_SECONDS = 1.0


class Service:
    """One opening of a store.

    Args:
        on_lost: told of the failure that ended it, where another opening follows: the store is shared.
    """

    def __init__(self, ports: Ports, options: Options, on_lost: Callable[[StoreError], None] | None = None) -> None:
        self._ports = ports
        self._options = options
        self._on_lost = on_lost
        self._engine: Engine | None = None
        self._recovery: Recovery | None = None
        self._replica: Replica | None = None
        self._supervisor = Supervisor(name="rotor_actors", max_restarts=3, max_seconds=5.0, clock=ports.clock.monotonic)
        self._waiters: set[asyncio.Future[RunRow]] = set()
        self._is_accepting = False
        self._failure: StoreError | None = None
        self._is_stopped = False
        self._closing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeStateError("the runtime is not open; use it inside 'async with runtime:'")
        return self._engine

    @property
    def failure(self) -> StoreError | None:
        """What ended it, if that was the store."""
        return self._failure

    @property
    def replica(self) -> int | None:
        """Its number, where the store is shared."""
        return None if self._replica is None else self._replica.number

    def known_workflows(self) -> list[Workflow[Any, Any]]:
        """Those that are registered by now."""
        if self._engine is None:
            return []
        return [each for each in self._engine.registry.all() if not self._engine.compensations.makes(each)]

    def services(self) -> list[ChildInfo]:
        """The supervised services, as they stand."""
        return self._supervisor.which_children()

    async def add_service(self, spec: ChildSpec) -> None:
        """Have one more service supervised until the runtime is closed."""
        await self._supervisor.start_child(spec)

    def check_open(self) -> None:
        """Raise what keeps the runtime from being used, if anything does."""
        if self._failure is not None:
            raise self._failure
        if self._is_stopped:
            raise RuntimeStateError("the runtime is closed")

    def check_accepting(self) -> None:
        """Raise what keeps new runs from being started, if anything does."""
        self.check_open()
        if not self._is_accepting:
            raise RuntimeStateError("the runtime is closing: it accepts no new runs")

    # Opening

    async def open(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        """Open the store, take over what it holds, and serve."""
        set_order.install()
        ports = self._ports
        try:
            if is_shared(ports.store):
                await self._join(workflows)
            else:
                await self._take_over(workflows)
        except BaseException:
            if self._engine is not None:
                self._stop_everything(_closed())
            await self._stop_services()
            await self._close_runners()
            await self._release_store()
            raise
        engine = self.engine
        self._watcher = asyncio.get_running_loop().create_task(self._watch_services())
        self._is_accepting = True
        engine.queue_of_runs.poke()
        attach = getattr(ports.clock, "attach", None)
        if attach is not None:
            attach(self.settle, lambda: engine.is_idle or self._failure is not None)
        if self._failure is not None:  # while it was being opened
            if self._on_lost is None:
                raise self._failure
            self._on_lost(self._failure)

    async def _take_over(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        """The store is ours alone, with all that is in it."""
        ports = self._ports
        await ports.writer.call(ports.store.open)
        live = await ports.reader.call(ports.store.live_runs)
        adopters = await ports.reader.call(partial(find_adopters, ports.store, live))
        numbers = await ports.reader.call(partial(_last_numbers, ports.store, is_whole=self._options.forward is None))
        engine = self._make_engine(ports, numbers, workflows)
        items = await ports.reader.call(partial(_items_of, ports.store, engine.features.spaces))
        engine.observers.opened([each.row for each in live], engine)
        await self._start_services(engine)
        self._recovery = Recovery(engine)
        await self._recovery.begin(live, adopters, items)
        await self._keep_retention(engine)

    async def _keep_retention(self, engine: Engine) -> None:
        if self._options.retention is not None:  # beside everything else: it waits for its first turn itself
            keeper = RetentionKeeper(engine, self._options.retention)
            await self._supervisor.start_child(ChildSpec("retention", keeper.serve))

    async def _join(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        """Others have the store open, too: nothing in it is ours before we have claimed it."""
        self._replica = replica = Replica(self._ports, self._options)
        self._ports = ports = replica.ports
        await ports.writer.call(ports.store.open)
        await replica.enter()
        numbers = await ports.reader.call(partial(_last_numbers, ports.store, is_whole=self._options.forward is None))
        engine = self._make_engine(ports, numbers, workflows)
        engine.observers.opened([], engine)
        await self._start_services(engine)
        self._recovery = Recovery(engine)
        for spec in await replica.join(engine, self._recovery):
            await self._supervisor.start_child(spec)
        await self._keep_retention(engine)

    def _make_engine(self, ports: Ports, numbers: tuple[int, int], workflows: Iterable[Workflow[Any, Any]]) -> Engine:
        self._engine = Engine(ports, self._options, last_numbers=numbers, on_store_failure=self._failed)
        for workflow in workflows:
            self._engine.register(workflow)
        return self._engine

    async def _start_services(self, engine: Engine) -> None:
        await self._supervisor.__aenter__()
        await self._supervisor.start_child(ChildSpec("journal", engine.journal.serve))
        await self._supervisor.start_child(ChildSpec("loader", Loader(engine).serve))

    def _failed(self, error: StoreError) -> None:
        """A commit failed: nothing more may happen, for nobody knows what is durable."""
        self._failure = error
        self._is_accepting = False
        if self._on_lost is None:
            _logger.critical("the store failed, the runtime stops: %s; open it again to re-read the store", error)
        else:
            _logger.error("this replica has lost the store, all that runs here stops, and it begins anew: %s", error)
        self._stop_everything(error)
        if self._on_lost is not None and self._watcher is not None:
            self._on_lost(error)

    def suspects_before(self, run: Run) -> int | None:
        """See `Recovery.suspects_before`."""
        return None if self._recovery is None else self._recovery.suspects_before(run)

    # Waiting

    def wait_for(self, run: Run) -> asyncio.Future[RunRow]:
        """A future of the run's end, as it stands in its row."""
        self.check_open()
        waiter: asyncio.Future[RunRow] = asyncio.get_running_loop().create_future()
        if run.waiters is None:
            run.waiters = []
        run.waiters.append(waiter)
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    async def settle(self) -> bool:
        """Wait until nothing moves any more, save for what waits for time to pass: for a clock that is moved by hand.

        Says whether bodies of steps are still being executed.
        """
        engine, blocked = self.engine, 0
        if self._replica is not None:
            self._replica.time_was_moved()
        while blocked < _BLOCKED_PASSES and self._failure is None and self._closing is None:
            if engine.is_idle:
                await asyncio.sleep(_LOOK_SECONDS if engine.threads.are_running else 0)
                # Steps that wait for something which only time, or the test itself, will bring.
                blocked = blocked + 1 if engine.is_idle and not engine.threads.are_running else 0
            else:
                await asyncio.sleep(0 if blocked else 0.0005)
                blocked = 0
        return engine.steps.are_executing

    # Closing

    async def close(self) -> None:
        """Drain, stop, and give up the store. Cancelled, it drains no longer but still closes; twice is fine."""
        if self._engine is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError as error:
                if self._closing.done():
                    break
                cancelled = error
                self._hurry.set()
        if cancelled is not None:
            raise cancelled
        self._closing.result()

    async def _close(self) -> None:
        self._is_accepting = False
        engine = self.engine
        try:
            if self._replica is not None and self._failure is None:
                await self._say_that_it_drains(engine, self._replica)
            await self._drain(engine)
            self._stop_everything(_closed())
            await engine.stop_background()
            await self._steps_to_end(engine)
            engine.threads.report_left()
            if self._failure is None:
                if self._recovery is not None:
                    self._recovery.alarm(engine.now())  # nothing killed the process: it ends in good order
                await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        except StoreError:
            pass  # all who waited have been told
        finally:
            detach = getattr(self._ports.clock, "detach", None)
            if detach is not None:
                detach(self.settle)
            await self._stop_services()
            await self._close_runners()
            engine.journal.leave_nobody_waiting(_closed_while_full() if engine.journal.is_full else _closed())
            async with engine.journal.commit_lock.writer_lock:
                await self._release_store()
            engine.observers.closed()

    async def _say_that_it_drains(self, engine: Engine, replica: Replica) -> None:
        try:
            await replica.drain()
        except StoreError as error:  # the database is away: then nothing can be drained, and all who wait are told
            engine.journal.fail(error)

    async def _drain(self, engine: Engine) -> None:
        """Let runs come to their end; stop waiting when all that is left waits for something later than the limit."""
        engine.features.drain()
        engine.journal.kick()  # nobody else asks for a commit of what they appended
        if self._recovery is not None:
            self._recovery.wait_no_longer()
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._options.drain_timeout
        while loop.time() < limit and not self._hurry.is_set() and self._failure is None:
            if engine.is_idle and not engine.steps.count:
                due = engine.timers.next_due()
                is_moved_by_hand = hasattr(
                    self._ports.clock, "attach"
                )  # then no time passes here, however long we wait
                if due is None or is_moved_by_hand or due - engine.now() > limit - loop.time():
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    def _stop_everything(self, error: Exception) -> None:
        self._is_stopped = True
        engine = self.engine
        engine.timers.stop()
        engine.features.close()
        for run in engine.tree:
            if isinstance(run.actor, RunActor):
                run.actor.shut_down()
        engine.queue_of_runs.stop()
        engine.journal.tell_directly()
        for cancellation in tuple(engine.cancellations):
            cancellation.cut_off()
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_exception(error)

    async def _steps_to_end(self, engine: Engine) -> None:
        """Interrupted steps may clean up, for a moment."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + min(self._options.cancel_grace, _STOP_SECONDS)
        while engine.steps.count and loop.time() < limit and engine.steps.are_executing:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    async def _watch_services(self) -> None:
        """Without its journal or its loader the runtime would stand still and say nothing."""
        try:
            await self._supervisor.wait()
        except MaxRestartsExceeded as error:
            failure = StoreError(f"a service of the runtime failed again and again, so it stops: {error}")
            failure.__cause__ = error
            self._failed(failure)

    async def _close_runners(self) -> None:
        for name, runner in self._ports.step_runners.items():
            try:
                await runner.close()
            except Exception as error:
                _logger.error("step runner %r could not be closed: %s", name, error, exc_info=error)

    async def _stop_services(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if not self._supervisor.is_running:
            return
        try:
            await self._supervisor.stop()
        except MaxRestartsExceeded as error:
            _logger.critical("a service of the runtime gave up: %s", error, exc_info=error)

    async def _release_store(self) -> None:
        ports = self._ports
        if self._failure is not None and self._on_lost is not None:
            await self._let_go_of_store()
            return
        try:
            await ports.writer.call(ports.store.close)
        finally:
            ports.writer.close()
            ports.reader.close()

    async def _let_go_of_store(self) -> None:
        """The database is away, or hangs: whoever waits for it must not hang with it."""
        ports = self._ports
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await ports.writer.call(ports.store.close)
        except Exception as error:
            _logger.info("the lost store could not be closed: %r", error)
        for executor in (ports.writer, ports.reader):
            getattr(executor, "leave", executor.close)()


def _items_of(store: Store, spaces: list[str]) -> dict[str, list[ItemRow]]:
    return {space: store.items(ItemQuery(space)) for space in spaces}


def _closed() -> RuntimeStateError:
    return RuntimeStateError("the runtime was closed before the run ended; it goes on when the store is opened again")


def _closed_while_full() -> StoreFullError:
    return StoreFullError("the runtime was closed while the disk was full: what was not acknowledged was not recorded")


def _last_numbers(store: Store, *, is_whole: bool) -> tuple[int, int]:
    """Raises StoreError: it was opened as all there is, and is one of several shards. Before anything is taken up."""
    if is_whole:
        check_is_no_shard(store)
    return store.last_numbers()
