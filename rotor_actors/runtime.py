"""The face of the library: open a store, start runs, wait for them, cancel them, look at them."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from rotor_actors.access import Access
from rotor_actors.clock import Clock, SystemClock
from rotor_actors.control import address_of, is_possible, serve
from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import RuntimeStateError, StoreError
from rotor_actors.executor import Executor, InlineExecutor, ThreadExecutor
from rotor_actors.ids import Ids, RandomIds, is_storable
from rotor_actors.observing import Observer, Observers
from rotor_actors.ports import Options, Ports
from rotor_actors.replicas.incarnations import Incarnations
from rotor_actors.retention import Retention
from rotor_actors.service import Service
from rotor_actors.serving import Serving
from rotor_actors.sharding.face import Sharded
from rotor_actors.sharding.forwarding import Forwarding
from rotor_actors.sharding.observing import Gathered, ShardObserver
from rotor_actors.sharding.placement import Placement, Shard, ShardIds, named
from rotor_actors.step_runner import StepRunner, checked_runners
from rotor_actors.stores.base import Store
from rotor_actors.stores.memory import MemoryStore
from rotor_actors.stores.shared import SHELL_LABEL, SharedStore
from rotor_actors.stores.sqlite import SQLiteStore
from rotor_actors.stores.urls import refuse_other_urls
from rotor_actors.workflows import Workflow
from supervisors import ChildSpec, Restart, Supervisor


class Runtime(Serving):
    """Runs workflows, durably. Use it with `async with`, which may be entered and left in different tasks.

    Args:
        store: a file (`"rotor.db"`, `"sqlite:///rotor.db"`, a path), `":memory:"`, or a `Store`. A list of them, or of
            `sharding.Shard`: each tree of runs is in one of them, by a hash of its root's run id.
        workflows: those that must be known for recovery and for `invoke_by_id`. One that is started or invoked is
            registered by that.
        max_depth: how deep runs may invoke runs; a run that was started has depth 0. None for no limit.
        cancel_grace: how long the cleanup of cancelled runs may take, in all.
        drain_timeout: how long leaving waits for runs to end; what has not ended goes on when the store is opened
            again.
        max_active_runs: how many started runs may be under way at a time; further ones are queued. Their children
            are not counted and never wait.
        strict_replay: fail a run whose code has changed, instead of going on by step key.
        payload_limit: the largest input, result or step result, in bytes.
        max_recoveries: how often in a row a run may be recovered without recording anything, before it is set aside
            as failed: it seems to end the process each time.
        control: listen at a Unix socket beside the store's file, for the owner's rights only, so that `rotor` (the
            command line) can ask this process to cancel, send and the like.
        remember_event_ids: for how long an event that is sent with the same id again is not delivered again.
        label: what this replica is called, where it is shown; machine and pid unless given. Only on a store that many
            replicas share; on another it has no meaning, as has `spill_above`.
        spill_above: of runs that are at work here (about to begin, or with a step in flight), and of new ones above
            it are left to whichever replica has room; None: never. Runs that wait do not count.
        observers: are shown what becomes durable: see `rotor_actors.telemetry` for traces, metrics and log fields.
        retention: how long runs are kept after their end, e.g. `Retention(completed="7d")`; None for ever.
        step_runners: who executes heavy steps, by name: `{"cpu": ProcessPoolRunner(max_workers=4)}` (see
            `rotor_actors.runners`) for `step.run(…, runner="cpu")`. They are this runtime's, which closes them.
        clock, ids, rng: time, new run ids and chance, for tests.
        executor: makes, by name, what the store's blocking calls (not steps) are made in; one for writing, one for
            reading. None: a thread each.

    Raises (on entering):
        StoreLockedError, StoreVersionError, StoreCorruptedError, StoreError: the store cannot be used, and why.

    It installs no signal handlers and no loop policy, and knows nothing of other runtimes in the process.

    Example:
        >>> import asyncio
        >>> from rotor_actors import Context, Runtime, workflow
        >>> @workflow(id="greet")
        ... async def greet(ctx: Context, name: str) -> str:
        ...     return f"hello {name}"
        >>> async def main() -> str:
        ...     async with Runtime(":memory:") as runtime:
        ...         return await runtime.execute(greet, "you")
        >>> asyncio.run(main())
        'hello you'
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | Sequence[str | os.PathLike[str] | Store | Shard] = "rotor.db",
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        max_depth: int | None = 100,
        cancel_grace: Duration = "5s",
        drain_timeout: Duration = "10s",
        max_active_runs: int | None = None,
        strict_replay: bool = False,
        payload_limit: int = 4 * 2**20,
        max_recoveries: int = 10,
        retention: Retention | None = None,
        control: bool = True,
        remember_event_ids: Duration = "24h",
        label: str = "",
        spill_above: int | None = 1_000,
        observers: Iterable[Observer] = (),
        step_runners: Mapping[str, StepRunner] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        rng: random.Random | None = None,
        executor: Callable[[str], Executor] | None = None,
    ) -> None:
        self._given_runners = checked_runners(step_runners)
        if isinstance(store, list | tuple):
            given = {name: value for name, value in locals().items() if name not in ("self", "store", "__class__")}
            # A class of its own, as `pathlib.Path` has: in place, for what `Runtime` takes is said once, here.
            self.__class__ = _ShardedRuntime  # pyright: ignore[reportAttributeAccessIssue]
            self._set_up(named(store), given)
            return
        super().__init__()
        self._options = Options(
            max_depth=_checked_count("max_depth", max_depth),
            cancel_grace=seconds(cancel_grace, name="cancel_grace"),
            drain_timeout=seconds(drain_timeout, name="drain_timeout"),
            max_active_runs=_checked_count("max_active_runs", max_active_runs),
            strict_replay=strict_replay,
            payload_limit=_checked_number("payload_limit", payload_limit),
            max_recoveries=_checked_number("max_recoveries", max_recoveries),
            retention=_checked_retention(retention),
            remember_event_ids=seconds(remember_event_ids, name="remember_event_ids", exclusive=True),
            label=_checked_label(label),
            spill_above=_checked_count("spill_above", spill_above),
        )
        chance = rng or random.Random()
        chosen = _chosen_store(cast("str | os.PathLike[str] | Store", store))
        if not label and not chosen.is_inline:
            self._options = msgspec.structs.replace(self._options, label=f"{socket.gethostname()}:{os.getpid()}")
        self._make_executor = make = executor or partial(_executor, chosen)
        self._ports = Ports(
            clock=clock or SystemClock(),
            ids=ids or RandomIds(chance),
            rng=chance,
            store=chosen,
            writer=make("rotor-writer"),
            reader=make("rotor-reader"),
            observers=Observers(observers),
            step_runners=self._given_runners,
        )
        self._workflows = _checked_workflows(workflows)
        self._has_control = control and isinstance(chosen, SQLiteStore) and chosen.is_on_disk and is_possible()

    def given_runners(self) -> dict[str, StepRunner]:
        """The step runners that it was given."""
        return self._given_runners

    @property
    def workflows(self) -> tuple[Workflow[Any, Any], ...]:
        """Those that it was given."""
        return self._workflows

    @property
    def stores(self) -> tuple[Store, ...]:
        """What it stands on."""
        return (self._ports.store,)

    async def __aenter__(self) -> Runtime:
        if self._service is not None:
            raise RuntimeStateError("this runtime is open already, or was; make a new one")
        self._incarnations = Incarnations(self._ports.store, self._make_service, self._became, self._ports.rng.random)
        service = await self._incarnations.open(self._workflows)
        if self._has_control:
            try:
                await self._listen(service)
            except BaseException:  # cancelled: nobody leaves what nobody has entered
                await service.close()
                raise
        return self

    def _make_service(self, on_lost: Callable[[StoreError], None] | None) -> Service:
        make = self._make_executor
        if self._service is not None:  # not its first life: what the last one has left behind must not reach this one
            self._ports.store = cast(SharedStore, self._ports.store).again()
        ports = msgspec.structs.replace(self._ports, writer=make("rotor-writer"), reader=make("rotor-reader"))
        return Service(ports, self._options, on_lost)

    def _became(self, service: Service) -> None:
        self._service = service

    async def _listen(self, service: Service) -> None:
        address = address_of(cast(SQLiteStore, self._ports.store).path)
        listen = partial(serve, address, self._verbs())
        await service.add_service(ChildSpec("control", listen, restart=Restart.TEMPORARY))

    async def __aexit__(self, *_: object) -> None:
        if self._incarnations is not None:
            await self._incarnations.close()

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the store to `path`, while runs go on.

        Raises:
            StoreError: the file exists, or cannot be written.
        """
        engine = self._open()
        await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        async with engine.journal.commit_lock.writer_lock:
            await engine.ports.writer.call(lambda: engine.ports.store.backup(path))

    def only_visit(self) -> None:
        """Before it is entered, on a shared store: see `visitor`."""
        self._options = msgspec.structs.replace(self._options, is_visitor=True, spill_above=0)

    def be_shell(self) -> None:
        """Before it is entered, on a shared store: see `shell`."""
        label = f"{SHELL_LABEL}{self._options.label}"[:200]
        self._options = msgspec.structs.replace(self._options, is_shell=True, label=label)

    def _set_up(self, shards: Sequence[Shard], given: dict[str, Any]) -> None:
        raise NotImplementedError  # of one that has several stores


class _ShardedRuntime(Sharded, Runtime):
    """What `Runtime` is over several stores: a runtime for each, opened and left together."""

    def _set_up(self, shards: Sequence[Shard], given: dict[str, Any]) -> None:
        Access.__init__(self)
        self._shards, self._placement = shards, Placement(shards)
        self._rng = given["rng"] = given["rng"] or random.Random()
        self._workflows = given["workflows"] = _checked_workflows(given["workflows"])
        self._forwardings = [Forwarding() for _ in shards]
        gathered = Gathered(given["observers"], len(shards))
        self._runtimes = [self._make_part(at, gathered, given) for at in range(len(shards))]
        self._parts = self._runtimes
        self._stores = self.stores
        self._supervisor = Supervisor(name="shards")
        self._reading_thread = (given["executor"] or ThreadExecutor)("rotor-shards")

    def _make_part(self, at: int, gathered: Gathered, given: dict[str, Any]) -> Runtime:
        shard, placement = self._shards[at], self._placement
        ids = ShardIds(given["ids"] or RandomIds(self._rng), placement, at, takes_new=shard.takes_new)
        observers = [ShardObserver(gathered, at)] if gathered.observers else []
        options: dict[str, Any] = {**given, "ids": ids, "observers": observers, "control": False}
        part = Runtime(shard.store, **options)
        is_home = partial(_is_home, placement, at)
        part._options = msgspec.structs.replace(part._options, is_home=is_home, forward=self._forwardings[at].wake)
        return part

    def only_visit(self) -> None:
        for part in self._runtimes:
            part.only_visit()

    def be_shell(self) -> None:
        for part in self._runtimes:
            part.be_shell()

    @property
    def stores(self) -> tuple[Store, ...]:
        return tuple(store for part in self._runtimes for store in part.stores)

    async def __aenter__(self) -> Runtime:
        opened: list[Runtime] = []
        try:
            for part in self._runtimes:
                opened.append(await part.__aenter__())
            await self._introduce()
            await self._forward()
        except BaseException:  # nobody leaves what nobody has entered
            await self._leave(opened)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave(self._runtimes)

    async def _leave(self, parts: Sequence[Runtime]) -> None:
        """All drain at once, for as long as one would."""
        await self._supervisor.stop()
        left = await asyncio.gather(*(part.__aexit__() for part in parts), return_exceptions=True)
        self._reading_thread.close()
        for error in left:
            if isinstance(error, BaseException):
                raise error

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """One copy of each shard: `path` with `.0`, `.1`, … in the order of the list; each is of a moment of its own."""
        for at, part in enumerate(self._runtimes):
            await part.backup(f"{os.fspath(path)}.{at}")


def visitor(store: Any, *, workflows: Iterable[Workflow[Any, Any]] = (), clock: Clock | None = None) -> Runtime:
    """A runtime on a shared store (or several) that tells runs something and runs nothing: what it starts or brings back
    is left to the replicas. It is one of them for as long as it is open."""
    runtime = Runtime(store, workflows=workflows, drain_timeout=0, clock=clock, control=False)
    runtime.only_visit()
    return runtime


def shell(
    store: Any,
    *,
    workflows: Iterable[Workflow[Any, Any]],
    step_runners: Mapping[str, StepRunner] | None = None,
    clock: Clock | None = None,
) -> Runtime:
    """A runtime for a run of its own and what belongs to it. On a shared store, the runs of others are left to the other
    replicas: it claims only those that none of them offers to run."""
    runtime = Runtime(store, workflows=workflows, step_runners=step_runners, drain_timeout=0, clock=clock)
    runtime.be_shell()
    return runtime


def _is_home(placement: Placement, at: int, workflow: Workflow[Any, Any], event_id: str) -> bool:
    """Runs that an event starts are spread like others, save for those of a workflow whose rules hold in one shard."""
    if workflow.rules is None and event_id:
        return placement.shard_of(f"event {workflow.id} {event_id}") == at
    return placement.home_of(workflow) == at


def _chosen_store(store: str | os.PathLike[str] | Store) -> Store:
    if isinstance(store, str):
        if store == ":memory:":
            return MemoryStore()
        if store.lower().startswith(("postgresql://", "postgres://")):
            from rotor_actors.stores.postgres.store import PostgresStore  # here: who has a file need not wait for it

            return PostgresStore(store)
        refuse_other_urls(store)
        return SQLiteStore(store.removeprefix("sqlite:///"))
    if isinstance(store, os.PathLike):
        return SQLiteStore(store)
    if not hasattr(store, "commit"):
        raise TypeError(
            f"store: expected a file, 'sqlite:///file', 'postgresql://…', ':memory:' or a Store; got {store!r}"
        )
    return store


def _executor(store: Store, name: str) -> Executor:
    return InlineExecutor() if store.is_inline else ThreadExecutor(name)


def _checked_workflows(workflows: Iterable[Workflow[Any, Any]]) -> tuple[Workflow[Any, Any], ...]:
    if isinstance(workflows, Workflow):
        raise TypeError(f"workflows: expected any number of them, got {workflows!r}; write workflows=[…]")
    found = tuple(workflows)
    for each in found:
        if not isinstance(each, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"workflows: expected functions decorated with @workflow, got {each!r}")
    return found


def _checked_number(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name} must be a number of at least 1, got {value!r}")
    return value


def _checked_label(label: str) -> str:
    if not isinstance(label, str) or len(label) > 200 or not is_storable(label):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"label must be a text of at most 200 characters, e.g. 'web-1'; got {label!r}")
    return label


def _checked_retention(retention: Retention | None) -> Retention | None:
    if retention is not None and not isinstance(retention, Retention):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"retention must be a Retention, e.g. Retention(completed='7d', failed='30d'); got {retention!r}"
        )
    return retention


def _checked_count(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name} must be a number of at least 1, or None for no limit; got {value!r}")
    return value
