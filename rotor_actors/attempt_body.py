"""What the body of an attempt sees of the engine: the other side of `ctx` and `ctx.step`."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

import msgspec

from rotor_actors.actor_host import ActorHost
from rotor_actors.code_places import MOST_NOTED_STEPS
from rotor_actors.context import Context
from rotor_actors.durations import Duration
from rotor_actors.errors import InvokeDepthError, InvokeTargetError, StepRefusedError
from rotor_actors.events.expression import Node
from rotor_actors.map_state import EndPages, MapState
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import EventNote, Kind, RunFlag
from rotor_actors.run import Run
from rotor_actors.run_loop import RunLoop
from rotor_actors.run_state import RunState
from rotor_actors.step_failures import StepFailures
from rotor_actors.workflows import Event, Workflow

_NO_HEADERS: Mapping[str, str] = {}


class AttemptBody:
    """The `Body` of one attempt. What it asks for waits in the state until the actor performs it.

    It does not hold the actor: what has ended must go without the cyclic collector.
    """

    __slots__ = ("_host", "_loop", "_page_waiters", "_reports", "_run", "_state", "failures", "is_cleaning")

    def __init__(self, host: ActorHost, run: Run, loop: RunLoop, state: RunState) -> None:
        self._host = host
        self._run = run
        self._loop = loop
        self._state = state
        self.failures: StepFailures | None = None
        """What was raised in it for steps."""
        self.is_cleaning = False
        """The run is cancelled, and the body only cleans up."""
        self._reports = 0
        self._page_waiters: dict[EndPages, asyncio.Future[None]] | None = None

    def make_context(self) -> Context:
        row = self._run.row
        return Context(
            self,
            run_id=row.run_id,
            workflow_id=row.workflow_id,
            attempt=row.attempt,
            parent_run_id=None if row.flags & RunFlag.STARTED else row.parent_run_id,
            root_run_id=row.root_run_id,
            depth=row.depth,
            headers=_NO_HEADERS if row.headers is None else msgspec.msgpack.decode(row.headers, type=dict[str, str]),
        )

    # Who it is

    @property
    def where(self) -> str:
        return self._run.where

    @property
    def run_id(self) -> str:
        return self._run.row.run_id

    @property
    def own_workflow(self) -> Workflow[Any, Any]:
        assert self._run.workflow is not None
        return self._run.workflow

    def event(self) -> Event:
        workflow, row = self.own_workflow, self._run.row
        if row.event is not None:
            note = msgspec.msgpack.decode(row.event, type=EventNote)
            data = None if row.input is None else self._host.codec_of(Any).decode(row.input)
            return Event(note.name, data, note.id, _utc(note.at))
        data = self._host.codecs_of(workflow)[0].decode(row.input) if row.input is not None else None
        name = workflow.on if isinstance(workflow.on, str) else workflow.id
        return Event(name, data, row.run_id, _utc(row.created_at))

    def is_replaying(self) -> bool:
        return self._state.replaying

    def now(self) -> float:
        return self._loop.time()

    # Steps

    def ask(self, step_id: str, kind: Kind, target: str, spec: object) -> StepEnded | Pending:
        loop, state = self._loop, self._state
        if events._get_running_loop() is not loop:
            raise self._outside(f"step {step_id!r}")
        asked = state.request(step_id, kind, target, spec)
        if type(asked) is Pending:
            asked.future = loop.step_future(state, asked.key)
            asked.asked_at = loop.now
            noted = self._host.noted_steps.get(self._run.row.workflow_id)
            if noted is None or (step_id not in noted and len(noted) < MOST_NOTED_STEPS):
                self._host.note_place(self._run, step_id, kind, target)
        return asked

    def withdraw(self, key: bytes) -> None:
        self._state.withdraw(key)

    def note_failure(self, error: BaseException, key: bytes) -> None:
        self._raised().note_step(error, key)

    def note_invoke_failure(self, error: BaseException, key: bytes) -> None:
        self._raised().note_invoke(error, key)

    def _raised(self) -> StepFailures:
        if self.failures is None:
            self.failures = StepFailures()
        return self.failures

    async def transact(
        self, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float, codec: Codec
    ) -> Any:
        return await self._host.transact(self._run, key, step_id, fn, args, timeout, codec)

    def _outside(self, what: str) -> StepRefusedError:
        return StepRefusedError(
            f"{self.where}: {what} was called from outside the workflow's body (inside another step?); "
            f"steps do not nest: call it in the body"
        )

    # Maps

    def open_map(self, step_id: str, target: str) -> MapState:
        if not self._loop.is_running():
            raise self._outside(f"step {step_id!r}")
        return self._state.open_map(step_id, target)

    def ask_child(self, opened: MapState, index: int, spec: object, future: object) -> StepEnded | None:
        asked = self._state.request_child(opened, index, spec)
        if type(asked) is Pending:
            asked.future = future
            return None
        return cast(StepEnded, asked)

    def next_of_memo(self, opened: MapState) -> StepEnded | asyncio.Future[None] | None:
        pages = opened.memo
        if pages is None or not pages.needs_page:
            return self._state.next_of_memo(opened)
        if self._page_waiters is None:
            self._page_waiters = {}
        waiter = self._page_waiters.get(pages)
        if waiter is None:
            waiter = self._page_waiters[pages] = self._loop.create_future()
            self._state.wanted.append(pages)
        return waiter

    def page_came(self, pages: EndPages) -> None:
        """Whoever waits for the next page of these goes on."""
        waiter = None if self._page_waiters is None else self._page_waiters.pop(pages, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What `ctx` does

    def patched(self, name: str) -> bool:
        if not self._loop.is_running():
            raise self._outside(f"ctx.patched({name!r})")
        answer, key = self._state.patched(name)
        if key is not None and not self._run.is_doomed:
            self._host.record_patch(self._run, key, name)
        return answer

    def report(self, key: str, value: object) -> None:
        if not self._loop.is_running():
            raise self._outside("ctx.report")
        blob = self._host.codec_of(Any).round_trip(value)[0]
        self._reports += 1
        if not self._loop.is_ending:
            self._host.report(self._run, key, self._reports, blob)

    async def cancel(self, reason: str) -> NoReturn:
        if not self._loop.is_running():
            raise self._outside("ctx.cancel")
        if self.is_cleaning:
            raise asyncio.CancelledError  # it is cancelled already, and this must not hold up its cleanup
        if self._loop.is_ending:
            raise StepRefusedError(f"{self.where}: ctx.cancel refused: this attempt has ended")
        self._host.cancel_from_inside(self._run, reason)
        while True:
            await self._loop.create_future()

    # Workflows, and what values are checked and encoded by

    def workflow(self, workflow_id: str) -> Workflow[Any, Any]:
        found = self._host.find_workflow(workflow_id)
        if found is None:
            known = ", ".join(map(repr, self._host.known_workflow_ids())) or "none"
            raise InvokeTargetError(
                f"{self.where}: no workflow {workflow_id!r} is registered (known: {known}); "
                f"name it in Runtime(workflows=[…])"
            )
        return found

    def check_invoke(self, step_id: str, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        limit = self._host.max_depth()
        if limit is not None and self._run.row.depth + 1 > limit:
            chain = " → ".join(self._host.chain(self._run))
            raise InvokeDepthError(
                f"{self.where}: step {step_id!r} would invoke {workflow.id!r} at depth {self._run.row.depth + 1}, the "
                f"limit is {limit} (Runtime(max_depth=…)); the chain: {chain} → {workflow.id}"
            )
        self._host.register(workflow)
        return self._host.codecs_of(workflow)

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        self._host.register(workflow)
        return self._host.codecs_of(workflow)

    def result_codec(self, workflow_id: str) -> Codec:
        found = self._host.find_workflow(workflow_id)
        return self._host.codec_of(Any) if found is None else self._host.codecs_of(found)[1]

    def codec_of(self, annotation: object) -> Codec:
        return self._host.codec_of(annotation)

    def step_codec(self, fn: Callable[..., Any]) -> Codec:
        return self._host.step_codec(fn)

    def seconds(self, value: Duration, name: str, maximum: float | None = None) -> float:
        return self._host.seconds(value, name, maximum)

    def condition(self, match: str | None, where: str | None) -> Node | None:
        return self._host.condition(match, where)


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
