"""What each group of a runtime's methods stands on: the engine that is open, and the reader of its store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from rotor_actors.engine import Engine
from rotor_actors.errors import RunNotFoundError, RuntimeStateError, StoreError, StoreFullError, StoreUnavailableError
from rotor_actors.reading import Reading
from rotor_actors.records import RunRow
from rotor_actors.replicas.incarnations import Incarnations
from rotor_actors.run import Run
from rotor_actors.service import Service
from rotor_actors.stores.base import StoreReader

T = TypeVar("T")

# Whoever looks at runs waits as long as this for a database that is away: longer than it takes until a server has
# started anew, or another has taken its place.
READ_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Access(Reading):
    """The way to the engine, for as long as the runtime is open.

    The methods of `Runtime` stand in classes by theme, each in a module of its own: `Looking`, `Controlling`,
    `Waiting`, `FlowFace`, `Starting`. A new theme is a new class on the way from this one to `Runtime`.
    """

    def __init__(self) -> None:
        self._service: Service | None = None
        self._incarnations: Incarnations | None = None

    @property
    def _engine(self) -> Engine:
        service = self._service
        if service is None:
            raise RuntimeStateError("the runtime is not open; use it inside 'async with runtime:'")
        return service.engine

    def _open(self) -> Engine:
        engine = self._engine
        assert self._service is not None
        self._service.check_open()
        return engine

    def _accepting(self) -> Engine:
        engine = self._engine
        assert self._service is not None
        self._service.check_accepting()
        if engine.journal.is_full:
            raise StoreFullError("the disk is full: nothing new is accepted until there is room; nothing was recorded")
        return engine

    def _life_after(self, lost: Service, error: StoreError) -> asyncio.Future[None]:
        """The store was lost. A future of the next life, where this runtime begins anew as another replica; else the
        error is raised."""
        life = None if self._incarnations is None else self._incarnations.next_life(lost)
        if life is None:
            raise error
        return life

    @property
    def _begins_anew(self) -> bool:
        return self._incarnations is not None and self._incarnations.begins_anew

    async def _next_life(self, lost: Service, error: StoreError, until: float | None = None) -> None:
        """Wait until the store may be asked again. Where this runtime does not begin anew, the error is raised.

        Args:
            until: no longer than to this time. Raises StoreUnavailableError, then.
        """
        clock = lost.engine.ports.clock
        if self._begins_anew and until is not None and clock.now() >= until:
            raise _too_long(error) from error
        if lost.failure is None:
            if not self._begins_anew or not isinstance(error, StoreUnavailableError):
                raise error
            await asyncio.sleep(_LOOK_SECONDS)
            return
        life = self._life_after(lost, error)

        def give_up() -> None:
            if not life.done():
                life.set_exception(_too_long(error))

        alarm = None if until is None else clock.call_at(until, give_up)
        try:
            await life
        finally:
            if alarm is not None:
                alarm.cancel()

    async def _find(self, engine: Engine, run_id: str) -> RunRow | None:
        live = engine.tree.find(run_id)
        if live is not None:
            await engine.journal.durable(live.seen_seq)
            return live.row
        return await self._read_now(lambda store: store.find(run_id))

    async def _live_or_ended(self, run_id: str) -> Run | RunRow:
        """The run, if it is live; else its row, with its end, which is durable. Raises RunNotFoundError.

        A row without an end is that of a run which was started while it was being read, or which has ended in memory
        only, because the disk is full: nobody is told of that before it is durable. Where replicas share the store it
        may also be another's: then what is given stands for it, and is told of its end.
        """
        engine = self._open()
        while (run := engine.tree.find(run_id)) is None or run.row.status.is_terminal:
            row = await self._read_now(lambda store: store.find(run_id))
            if row is None:
                raise RunNotFoundError(f"no run has the id {run_id!r} in this store")
            if row.status.is_terminal:
                return row
            await engine.journal.durable(engine.journal.last_seq)
            if engine.finishing.remote is not None:
                return engine.tree.find(run_id) or engine.finishing.remote.stand_in(row)
        return run

    async def _read(self, read: Callable[[StoreReader], T]) -> T:
        """`_read_now`; where replicas share a database that is away, once it is there again, if that is soon enough.

        Raises:
            StoreUnavailableError: it was not there again within `READ_SECONDS`.
        """
        until: float | None = None
        while True:
            service = self._service
            try:
                return await self._read_now(read)
            except StoreError as error:
                if service is None:
                    raise
                if until is None:
                    until = service.engine.ports.clock.now() + READ_SECONDS
                await self._next_life(service, error, until)

    async def _read_now(self, read: Callable[[StoreReader], T]) -> T:
        """Read what was appended before this call, too; while the disk is full, what is durable."""
        engine = self._open()
        await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        self._open()
        try:
            return await engine.ports.reader.call(lambda: read(engine.ports.store))
        except StoreError:
            self._open()  # closed meanwhile: that is not the store's failure
            raise


def _too_long(error: StoreError) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the database was away for {READ_SECONDS:g} s, and nothing could be read ({error}). This runtime goes on trying, and "
        f"begins anew when it is there again: look at the server, then ask again"
    )
