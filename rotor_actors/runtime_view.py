"""Looking at a store without owning it: what `Runtime` shows, read from the file alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rotor_actors import control
from rotor_actors.clock import Clock, SystemClock
from rotor_actors.errors import RuntimeStateError
from rotor_actors.executor import Executor, InlineExecutor, ThreadExecutor
from rotor_actors.live_waits import read_stored_waits, stored_waits
from rotor_actors.ownership import LOOK_AROUND_SECONDS
from rotor_actors.payload import Codecs
from rotor_actors.records import RunRow
from rotor_actors.registry import Registry
from rotor_actors.sharding.placement import Shard, named
from rotor_actors.showing import Showing
from rotor_actors.stores.base import StoreReader, StoreView
from rotor_actors.stores.shared import is_shared_view
from rotor_actors.stores.sqlite_view import SQLiteView
from rotor_actors.stores.urls import refuse_other_urls
from rotor_actors.waits import Wait
from rotor_actors.workflows import Workflow

if TYPE_CHECKING:
    from rotor_actors.dashboard.window import ServiceJson

T = TypeVar("T")

_PAYLOAD_LIMIT = 2**40


class RuntimeView(Showing):
    """Shows the runs of a store, beside the process that owns it or with no owner at all. Use it with `async with`.

    It only reads: it takes no lock, never checkpoints, and keeps no commit of the owner waiting. What it shows is
    durable. What a run does right now only its owner knows: `why` and `waiting_for` say what the store says.

    Args:
        store: a file, a URL, or a `StoreView`; or a list of them, as given to `Runtime`.
        workflows: whose annotations type what is shown; without them inputs and results are plain values.
        clock: for tests.

    Raises (on entering):
        StoreError: there is no such store, or it is of an older version.
        StoreVersionError, StoreCorruptedError: it cannot be read, and why.

    Example:
        >>> import asyncio
        >>> from rotor_actors import Context, Runtime, RuntimeView, workflow
        >>> @workflow(id="greet")
        ... async def greet(ctx: Context, name: str) -> str:
        ...     return f"hello {name}"
        >>> async def main(file: str) -> list[str]:
        ...     async with Runtime(file) as runtime, RuntimeView(file) as view:
        ...         await runtime.execute(greet, "you")
        ...         return [f"{run.workflow_id} {run.status}: {run.result}" for run in await view.runs()]
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     asyncio.run(main(f"{place}/rotor.db"))
        ['greet completed: hello you']
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | StoreView | Sequence[str | os.PathLike[str] | Shard] = "rotor.db",
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        clock: Clock | None = None,
    ) -> None:
        self._store = chosen_view(store)
        self._given_clock = clock
        self._clock = clock or SystemClock()
        self._known = Registry(Codecs(_PAYLOAD_LIMIT), lambda workflow: None)
        for workflow in workflows:
            self._known.register(workflow)
        self._executor: Executor | None = None
        self._is_open = False

    async def __aenter__(self) -> RuntimeView:
        if self._executor is not None:
            raise RuntimeStateError("this view is open already, or was; make a new one")
        self._executor = InlineExecutor() if self._store.is_inline else ThreadExecutor("rotor-view")
        try:
            await self._executor.call(self._store.open)
        except BaseException:
            self._executor.close()
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._executor is not None and self._is_open:
            self._is_open = False
            await self._executor.call(self._store.close)
            self._executor.close()

    @property
    def store(self) -> StoreView:
        """What it looks at."""
        return self._store

    @property
    def _registry(self) -> Registry:
        return self._known

    def _now(self) -> float:
        return self._clock.now()

    async def _read(self, read: Callable[[StoreReader], T]) -> T:
        if self._executor is None or not self._is_open:
            raise RuntimeStateError("the view is not open; use it inside 'async with view:'")
        return await self._executor.call(lambda: read(self._store))

    # For its dashboard: what is done there, the owner of the store does

    async def perform(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Have done what `verb` says: by the process that owns the store; or, where replicas share it, by becoming one of
        them for as long as that takes. That one runs nothing: what needs a workflow's code is refused by name.

        Raises:
            ControlError: it is refused, or no process has the store open. ControlTimeoutError: it does not answer.
        """
        if isinstance(self._store, SQLiteView):
            return await asyncio.to_thread(partial(control.ask, self._store.path, verb, **arguments))
        if not is_shared_view(self._store):
            raise control.ControlError(f"{type(self._store).__name__} can be looked at only: {verb} is not possible")
        from rotor_actors.runtime import visitor  # here: who only looks need not wait for the engine

        async with visitor(self._store.replica_store(), clock=self._given_clock) as runtime:
            return await runtime.perform(verb, arguments)

    async def _newest(self) -> int:
        if is_shared_view(self._store):
            return int(self._now() / LOOK_AROUND_SECONDS)
        _, seq = await self._read(lambda store: store.last_numbers())
        return seq

    def _known_workflows(self) -> Iterable[Workflow[Any, Any]]:
        return self._known.all()

    def _services(self) -> list[ServiceJson]:
        return []

    async def _facts(self) -> list[tuple[str, str]]:
        store = str(getattr(self._store, "path", type(self._store).__name__))
        if not isinstance(self._store, SQLiteView):
            return [("Store", store), ("Owner", "replicas share it")]
        try:
            owner = await asyncio.to_thread(partial(control.ask, self._store.path, "ping", within="5s"))
        except control.ControlTimeoutError:
            return [("Store", store), ("Owner", "it does not answer: is its event loop blocked?")]
        except control.ControlError:
            return [("Store", store), ("Owner", "no process has it open: runs stand still")]
        return [("Store", store), ("Owner", f"pid {owner['pid']}"), ("Its workflows", ", ".join(owner["workflows"]))]

    def _not_ready(self) -> str:
        return "" if self._executor is not None else "the view is not open"

    def _can(self) -> Iterable[str]:
        if not isinstance(self._store, SQLiteView):
            return ("cancel", "send", "signal") if is_shared_view(self._store) else ()
        return ("cancel", "resume", "restart", "fork", "send", "signal") if control.is_possible() else ()

    def _known_waits(self, row: RunRow) -> list[Wait]:
        return stored_waits(row, [])

    async def _waits(self, row: RunRow) -> list[Wait]:
        return await self._read(partial(read_stored_waits, row))


def chosen_view(store: object) -> StoreView:
    """A view, not opened yet, of what `RuntimeView` was given. Raises TypeError: it is nothing of that."""
    if isinstance(store, list | tuple):
        from rotor_actors.sharding.view import view_of  # here: hardly anybody has several

        shards = named(cast("Sequence[object]", store))
        return view_of(shards, [chosen_view(each.store) for each in shards])
    if isinstance(store, str) and store.lower().startswith(("postgresql://", "postgres://")):
        from rotor_actors.stores.postgres.view import PostgresView  # here: who has a file need not wait for it

        return PostgresView(store)
    if isinstance(store, str):
        refuse_other_urls(store)
        return SQLiteView(store.removeprefix("sqlite:///"))
    if isinstance(store, os.PathLike):
        return SQLiteView(cast("os.PathLike[str]", store))
    if not hasattr(store, "list_runs"):
        raise TypeError(f"store: expected a file, 'postgresql://…' or a StoreView; got {store!r}")
    return cast(StoreView, store)
