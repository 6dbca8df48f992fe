"""Several runtimes as one: what concerns a run goes to the shard that its tree is in, what concerns all to all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rotor_actors.budget import Budget
from rotor_actors.cancellation import CancelReport
from rotor_actors.durations import Duration
from rotor_actors.engine import Engine
from rotor_actors.errors import RunExistsError, RunNotFoundError, SignalNotFoundError, StoreError
from rotor_actors.executor import Executor
from rotor_actors.flow.views import FlowKey, WaitingRun
from rotor_actors.handle import RunHandle
from rotor_actors.ids import checked_run_id
from rotor_actors.pruning import PruneReport
from rotor_actors.records import Entry, RunRow, RunStatus
from rotor_actors.serving import Serving, services_json
from rotor_actors.shard_names import names_in, names_put
from rotor_actors.sharding.forwarding import Forwarding
from rotor_actors.sharding.numbers import parted
from rotor_actors.sharding.part import Part
from rotor_actors.sharding.placement import Placement, Shard
from rotor_actors.sharding.reading import Ask, MergedReader, MergedSharedReader
from rotor_actors.starting import checked_workflow
from rotor_actors.step_events import event_records
from rotor_actors.step_specs import EventRecord
from rotor_actors.stores.base import Store, StoreReader
from rotor_actors.stores.shared import is_shared
from rotor_actors.views import Update
from rotor_actors.waits import Wait
from rotor_actors.workflows import Event, Workflow
from supervisors import ChildSpec, Supervisor

if TYPE_CHECKING:
    from rotor_actors.dashboard.window import ServiceJson

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


class Sharded(Serving):
    """The methods of `Runtime` over several stores. Each part is a runtime of its own, which knows nothing of the others.

    A tree of runs never crosses shards. What a rule says of a workflow (flow control, singleton, idempotency, debounce,
    batch) holds for all starts, for they go to one shard; for its runs as children it holds within each shard.
    """

    _parts: Sequence[Serving]
    _shards: Sequence[Shard]
    _stores: Sequence[Store]
    _placement: Placement
    _rng: random.Random
    _reading_thread: Executor
    _supervisor: Supervisor
    _forwardings: Sequence[Forwarding]

    # All shards

    def _check_names(self, names: list[str], known: list[str]) -> None:
        if missing := sorted(set(known) - set(names)):
            raise StoreError(
                f"shard {', '.join(missing)} is missing from the list {names}: its runs would not be found, and ids of "
                f"your choice be started twice; list it (Shard(store, name=…) keeps the name of one that has moved), "
                f"with takes_new=False until its last run is deleted"
            )

    async def _introduce(self) -> None:
        """Each shard keeps the names of all, so that none can be forgotten."""
        names = [each.name for each in self._shards]
        for part in self._parts:
            known = await part._read(names_in)
            self._check_names(names, known)
            if set(known) != set(names):
                await self._append(part, names_put(names))

    async def _append(self, part: Serving, entry: Entry) -> None:
        journal = part._open().journal
        await journal.durable(journal.append(entry))

    async def _deliver(self, part: Serving, events: Sequence[EventRecord]) -> list[str]:
        engine = part._accepting()
        return await engine.sending.send(events, part._accepting)

    async def _forward(self) -> None:
        """Let what steps send in one shard go to the others."""
        parts = [Part(part._read, partial(self._append, part), partial(self._deliver, part)) for part in self._parts]
        await self._supervisor.__aenter__()
        for part, shard, forwarding in zip(parts, self._shards, self._forwardings, strict=True):
            forwarding.begin(part, [each for each in parts if each is not part])
            await self._supervisor.start_child(ChildSpec(f"{shard.name}: forwarding", forwarding.serve))

    # The way to the shards

    @property
    def _engine(self) -> Engine:
        """For what is the same in all: the workflows, the time."""
        return self._parts[0]._engine

    def _open(self) -> Engine:
        first, *_ = [part._open() for part in self._parts]
        return first

    def _accepting(self) -> Engine:
        first, *_ = [part._accepting() for part in self._parts]
        return first

    async def _read(self, read: Callable[[StoreReader], T]) -> T:
        for part in self._parts:
            engine = part._open()
            await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        if all(store.is_inline for store in self._stores):
            asks = [partial(_ask, store) for store in self._stores]
            return read(self._merged(asks))
        loop = asyncio.get_running_loop()
        merged = self._merged([partial(_ask_from_thread, loop, part._read) for part in self._parts])
        return await self._reading_thread.call(lambda: read(merged))

    def _merged(self, asks: Sequence[Ask]) -> MergedReader:
        kind = MergedSharedReader if all(is_shared(store) for store in self._stores) else MergedReader
        return kind(asks, [each.name for each in self._shards], self._placement)

    async def _find_part(self, run_id: str) -> Serving | None:
        """Of what is in memory it is known at once; else the likeliest shard is asked first, then the others."""
        for part in self._parts:
            if part._open().tree.find(run_id) is not None:
                return part
        for shard in self._placement.order_of(run_id):
            if await self._parts[shard]._read(lambda store: store.find(run_id)) is not None:
                return self._parts[shard]
        return None

    async def _part_of(self, run_id: str) -> Serving:
        part = await self._find_part(run_id)
        if part is None:
            raise RunNotFoundError(f"no run has the id {run_id!r} in any of the {len(self._parts)} shards")
        return part

    # Looking

    def _known_waits(self, row: RunRow) -> list[Wait]:
        place = parted(row.n)
        return self._parts[place.shard]._known_waits(_local(row, place.n))

    async def _waits(self, row: RunRow) -> list[Wait]:
        place = parted(row.n)
        return await self._parts[place.shard]._waits(_local(row, place.n))

    def orphans(self) -> list[str]:
        return [run_id for part in self._parts for run_id in part.orphans()]

    async def updates_of(self, run_id: str, key: str | None = None) -> AsyncGenerator[Update, None]:
        async with aclosing((await self._part_of(run_id)).updates_of(run_id, key)) as updates:
            async for update in updates:
                yield update

    # Starting

    async def start(
        self,
        workflow: Workflow[In, Out],
        data: In = None,  # type: ignore[assignment]
        *,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> RunHandle[Out]:
        self._accepting()
        part = await self._part_for(checked_workflow(workflow), run_id)
        handle = await part.start(workflow, data, run_id=run_id, headers=headers, budget=budget)
        return RunHandle(self, handle.run_id)

    async def _part_for(self, workflow: Workflow[Any, Any], run_id: str | None) -> Serving:
        """An id of the caller's choice may be in any shard: it was placed when there were fewer, or is a child's."""
        if run_id is not None and (known := await self._find_part(checked_run_id(run_id))) is not None:
            return known
        if workflow.rules is not None:
            return self._parts[self._placement.home_of(workflow)]
        if run_id is not None:
            return self._parts[self._placement.shard_of(run_id)]
        return self._parts[self._placement.any_open(self._rng)]

    # Waiting and telling

    async def result_of(self, run_id: str, timeout: Duration | None = None) -> Any:
        return await (await self._part_of(run_id)).result_of(run_id, timeout)

    async def cancel(self, run_id: str, reason: str = "") -> CancelReport:
        return await (await self._part_of(run_id)).cancel(run_id, reason)

    async def send(self, event: Event | Sequence[Event]) -> list[str]:
        """To every shard: runs that wait for it, or are cancelled by it, are in any; runs are started in one."""
        engine = self._accepting()
        records = [
            each if each.id else msgspec.structs.replace(each, id=engine.ports.ids.new_run_id(engine.now()))
            for each in event_records(event, engine.codec_of)
        ]
        started = await asyncio.gather(*(self._deliver(part, records) for part in self._parts))
        return [run_id for run_ids in started for run_id in run_ids]

    async def signal(self, signal: str, data: object = None) -> None:
        error: SignalNotFoundError | None = None
        for part in self._parts:
            try:
                return await part.signal(signal, data)
            except SignalNotFoundError as nobody:
                error = nobody
        assert error is not None
        raise error

    async def pause_key(self, key: str) -> None:
        await asyncio.gather(*(part.pause_key(key) for part in self._parts))

    async def resume_key(self, key: str) -> None:
        await asyncio.gather(*(part.resume_key(key) for part in self._parts))

    def flow_keys(self) -> list[FlowKey]:
        """Of a key that is in several shards, the counts together: its limits hold within each."""
        found: dict[str, FlowKey] = {}
        for part in self._parts:
            for key in part.flow_keys():
                known = found.get(key.name)
                found[key.name] = key if known is None else _added(known, key)
        return [found[name] for name in sorted(found)]

    def waiting(self, key: str | None = None, *, limit: int = 100) -> list[WaitingRun]:
        return [each for part in self._parts for each in part.waiting(key, limit=limit)]

    # After the end

    async def restart(self, run_id: str, *, new_run_id: str | None = None) -> RunHandle[Any]:
        part = await self._free_for(new_run_id, await self._part_of(run_id))
        return RunHandle(self, (await part.restart(run_id, new_run_id=new_run_id)).run_id)

    async def resume(self, run_id: str) -> RunHandle[Any]:
        return RunHandle(self, (await (await self._part_of(run_id)).resume(run_id)).run_id)

    async def fork(self, run_id: str, *, from_step: str, use: int = 1, new_run_id: str | None = None) -> RunHandle[Any]:
        part = await self._free_for(new_run_id, await self._part_of(run_id))
        return RunHandle(self, (await part.fork(run_id, from_step=from_step, use=use, new_run_id=new_run_id)).run_id)

    async def _free_for(self, new_run_id: str | None, part: Serving) -> Serving:
        """A run of this id in another shard is no restart and no fork of this one."""
        if new_run_id is not None and await self._find_part(checked_run_id(new_run_id)) not in (None, part):
            raise RunExistsError(f"run id {new_run_id!r} belongs to a run in another shard: choose another")
        return part

    async def delete(self, run_id: str) -> int:
        return await (await self._part_of(run_id)).delete(run_id)

    async def prune(
        self,
        *,
        older_than: Duration,
        status: RunStatus | str | Sequence[RunStatus | str] = (
            RunStatus.COMPLETED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
        ),
        workflow: str | Workflow[Any, Any] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        total = PruneReport()
        for part in self._parts:
            left = None if limit is None else limit - len(total.run_ids)
            if left is not None and left <= 0:
                break
            report = await part.prune(
                older_than=older_than, status=status, workflow=workflow, limit=left, dry_run=dry_run
            )
            total.run_ids += report.run_ids
            total.runs += report.runs
            total.kept += report.kept
        return total

    async def compact(self) -> None:
        for part in self._parts:
            await part.compact()

    # Showing

    async def _newest(self) -> int:
        return sum([await part._newest() for part in self._parts])

    def _services(self) -> list[ServiceJson]:
        of_parts = [
            msgspec.structs.replace(each, id=f"{shard.name}: {each.id}")
            for part, shard in zip(self._parts, self._shards, strict=True)
            for each in part._services()
        ]
        return of_parts + services_json(self._supervisor.which_children())

    async def _facts(self) -> list[tuple[str, str]]:
        return [
            (f"{shard.name}: {name}", value)
            for part, shard in zip(self._parts, self._shards, strict=True)
            for name, value in await part._facts()
        ]


def _ask(store: StoreReader, read: Callable[[Any], T]) -> T:
    return read(store)


def _ask_from_thread(loop: asyncio.AbstractEventLoop, reader: Callable[..., Any], read: Callable[[Any], T]) -> T:
    found: T = asyncio.run_coroutine_threadsafe(reader(read), loop).result()
    return found


def _local(row: RunRow, n: int) -> RunRow:
    local: RunRow = row.copy()
    local.n, local.root_n = n, parted(row.root_n).n
    local.parent_n = None if row.parent_n is None else parted(row.parent_n).n
    return local


def _added(one: FlowKey, other: FlowKey) -> FlowKey:
    return msgspec.structs.replace(
        one, running=one.running + other.running, waiting=one.waiting + other.waiting,
        is_paused=one.is_paused or other.is_paused,
    )  # fmt: skip
