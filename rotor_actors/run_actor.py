"""The shell around one attempt of a run: it takes messages, drives the body on its own loop, performs the effects."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol, cast

import msgspec

from rotor_actors.alarms import Alarms
from rotor_actors.code_places import MOST_NOTED_STEPS, place_on_stack
from rotor_actors.context import Context
from rotor_actors.durations import Duration
from rotor_actors.errors import InvokeDepthError, InvokeTargetError, NonDeterminismError, StepRefusedError
from rotor_actors.events.expression import Node
from rotor_actors.loading import Loaded
from rotor_actors.loop_tasks import RunTask
from rotor_actors.map_state import EndPages, Maps, MapState
from rotor_actors.messages import (
    Begin,
    Diverged,
    Effect,
    Fire,
    Known,
    MarkMap,
    Pending,
    Resolve,
    StepEnded,
    TimerFired,
    Withdraw,
)
from rotor_actors.payload import Codec
from rotor_actors.records import ChildRow, EventNote, Kind, RunFlag, StepRow
from rotor_actors.run import Run
from rotor_actors.run_loop import RunLoop
from rotor_actors.run_state import RunState
from rotor_actors.step import Step, invoke_outcome
from rotor_actors.step_specs import SleepSpec
from rotor_actors.step_task import StepHost, StepTask
from rotor_actors.workflows import Event, Workflow
from supervisors import await_chain

_CLOSING_ROUNDS = 100
# A body that spins goes on at once so often; then it pauses, for it seems to wait for something.
_EAGER_SPINS = 20
_SPIN_SECONDS = 0.005
_NO_HEADERS: Mapping[str, str] = {}
# Of a wide fan-out these are most tasks of its body. What user code they call (a type's own hooks) sees the context.
_PLAIN = frozenset({Step.run.__code__, Step.invoke.__code__, Step.invoke_by_id.__code__, invoke_outcome.__code__,
                    Context.invoke.__code__, Step.sleep.__code__})  # fmt: skip
_CANCELLED = "the run is cancelled and only cleans up; durable compensation belongs in the workflow's on_cancel handler"


class ActorHost(StepHost, Protocol):
    """What an actor asks of the engine. Everything here is synchronous: it appends, posts and queues."""

    home_context: contextvars.Context
    noted_steps: dict[str, set[str]]
    """Steps whose place in the code is known, by workflow."""

    def note_place(self, run: Run, step_id: str, kind: Kind, target: str) -> None: ...

    def recorded_place(self, run: Run, step_id: str, kind: Kind, target: str) -> str: ...

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]: ...

    def seconds(self, value: Duration, name: str, maximum: float | None) -> float: ...

    def codec_of(self, annotation: object) -> Codec: ...

    def step_codec(self, fn: Callable[..., Any]) -> Codec: ...

    def condition(self, match: str | None, where: str | None) -> Node | None: ...

    def find_workflow(self, workflow_id: str) -> Workflow[Any, Any] | None: ...

    def known_workflow_ids(self) -> list[str]: ...

    def register(self, workflow: Workflow[Any, Any]) -> None: ...

    def chain(self, run: Run) -> list[str]: ...

    def max_depth(self) -> int | None: ...

    def invoke(self, run: Run, pending: Pending, generation: int) -> None:
        """Spawn the child, or attach to it where it runs already."""
        ...

    def withdraw(self, run: Run, key: bytes) -> None: ...

    def begin_step(self, run: Run, pending: Pending) -> float | None:
        """Begin a step that a feature performs, or go on with it; gives when it is due."""
        ...

    def step_due(self, run: Run, pending: Pending, at: float) -> None: ...

    def withdraw_step(self, run: Run, pending: Pending) -> None: ...

    def cancel_from_inside(self, run: Run, reason: str) -> None: ...

    def sleep_ended(self, run: Run, pending: Pending, at: float) -> None: ...

    def invoke_timed_out(self, run: Run, pending: Pending, at: float) -> None: ...

    def timer_fired(self, run: Run, number: int, at: float) -> None: ...

    def mark_diverged(self, run: Run, what: str) -> None: ...

    def mark_map(self, run: Run, mark: MarkMap) -> None: ...

    def record_patch(self, run: Run, key: bytes, name: str) -> None: ...

    async def transact(
        self, run: Run, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float,
        codec: Codec,
    ) -> Any: ...  # fmt: skip

    def report(self, run: Run, key: str, number: int, value: bytes) -> None: ...

    def fetch(self, run: Run, pages: EndPages) -> None:
        """Read the next page, and hand it to the run's actor."""
        ...

    def at_rest(self, run: Run, due: float | None, *, is_parked: bool) -> None: ...

    def attempt_ended(self, run: Run, task: asyncio.Task[Any], failed_keys: list[bytes],
                      sleeps: dict[bytes, float]) -> None: ...  # fmt: skip

    def cleaned_up(self, run: Run, task: asyncio.Task[Any]) -> None: ...


class RunActor:
    """One attempt of one run."""

    __slots__ = ("_alarms", "_checks", "_effects", "_failures", "_host", "_invoke_failures", "_is_cleaning",
                 "_is_closed", "_is_fetching", "_is_moving", "_is_over", "_loaded", "_loop", "_page_waiters",
                 "_pause", "_reports", "_run", "_spins", "_state", "_steps", "_task", "_told_due")  # fmt: skip

    def __init__(
        self, host: ActorHost, run: Run, loaded: Loaded | None, *, is_replaying: bool, is_strict: bool
    ) -> None:
        assert run.row.attempt_at is not None
        self._host = host
        self._run = run
        self._loaded = loaded
        self._loop = RunLoop(run.row.attempt_at, run.row.run_id, asyncio.get_running_loop(), run, _PLAIN)  # type: ignore[abstract]
        self._loop.on_foreign = self._refuse_foreign
        self._state = _state_of(run, loaded, is_replaying, is_strict)
        if loaded is not None:
            self._state.explain = self._explain
        self._steps: dict[bytes, StepTask] = {}
        self._alarms: Alarms[bytes] | None = None
        self._told_due: float | None = None
        """What the host was told last of when something is due."""
        # Exceptions that were raised in the body for a failed step: if one ends the attempt, its step runs again.
        self._failures: list[tuple[BaseException, bytes]] | None = None
        self._invoke_failures: list[tuple[BaseException, bytes]] | None = None
        self._task: RunTask | None = None
        self._is_cleaning = False
        self._is_closed = False
        self._is_moving = True
        """The body is, or may be, not at rest."""
        self._is_fetching = False
        """What is recorded of its maps is being read: until it is here, nothing else is taken."""
        self._page_waiters: dict[EndPages, asyncio.Future[None]] | None = None
        self._is_over: Callable[[], bool] | None = None
        self._checks = 0
        self._reports = 0
        # Last first. Those that were cut off by a slice come before what the body asks for later.
        self._effects: list[Effect] = []
        self._spins = 0
        self._pause: asyncio.TimerHandle | None = None

    @property
    def where(self) -> str:
        return self._run.where

    # Being driven

    def begin(self, make_body: Callable[[Context], Any]) -> None:
        """Create the body; it runs with the next turn.

        What a new attempt finds in its mailbox came before it, and so is memo: on replay it will be, too.
        """
        if not self._state.replaying and self._run.mailbox is not None:
            while (message := self._run.mailbox.take()) is not None:
                if isinstance(message, StepEnded):
                    self._state.apply(message)
        # Of its own, for what an attempt sets there is for its steps and children, not for the next attempt.
        run = self._run
        run.context = context = (run.caller_context or self._host.home_context).copy()
        self._task = self._loop.create_task(make_body(self._make_context()), context=context)

    def go_on(self, is_over: Callable[[], bool]) -> bool:
        """Take message after message, each time running the body until it is at rest."""
        self._is_over = is_over
        run = self._run
        while not self._is_closed:
            mailbox = run.mailbox
            if mailbox is not None and mailbox.control is not None and not self._is_cleaning:
                self._clean_up()  # ahead of everything, even in the middle of a turn that does not end
            if run.is_doomed and not self._is_cleaning:
                return False  # it stands still until its interrupt comes (leaves get theirs first), even in a turn
            if self._is_fetching and not self._is_cleaning:
                return False
            if self._is_moving:
                if not self._run_to_rest():
                    return True  # in the middle of a turn
                self._is_moving = False
                if run.mailbox and is_over():
                    return True
                continue
            message = None if mailbox is None else mailbox.take()
            if message is None:
                if self._loop.is_spinning:
                    return self._spin()
                self._rest()
                return False
            if isinstance(message, StepEnded | TimerFired) and not self._is_cleaning:
                self._take(message)
        return False

    def _take(self, message: StepEnded | TimerFired) -> None:
        if message.seq > self._run.seen_seq:
            self._run.seen_seq = message.seq
        self._loop.set_time(message.at)
        self._state.apply(message)
        self._is_moving, self._spins = True, 0
        if self._state.effects:
            self._perform_effects()

    def _run_to_rest(self) -> bool:
        """Run the body, perform what it asked for, replay what answers it; False when the slice is used up."""
        while True:
            self._run.context_of_turn = None
            is_at_rest = self._loop.run(self._is_over)
            if (self._effects or self._state.effects) and not self._perform_effects():
                return False
            if not is_at_rest and not self._loop.is_spinning:
                return False
            if self._task is not None and self._task.done():
                self._finish(self._task)
                return True
            if self._state.wanted and not self._is_cleaning:
                self._fetch(self._state.wanted[0])
                return True
            if not self._state.replaying:
                return True
            if self._loop.is_spinning and not self._state.is_next_asked(self._loop.timers_set):
                self._loop.spin_on()  # it has not come as far yet as it had when the record's next message came
                return False
            self._replay_next()
            if self._is_closed:
                return True

    def _fetch(self, pages: EndPages) -> None:
        self._is_fetching = True
        self._host.fetch(self._run, pages)

    def page_came(self, rows: list[StepRow | ChildRow], place: tuple[int, int] | None) -> None:
        """The page that it stands still for."""
        self._is_fetching = False
        if self._is_closed or self._is_cleaning:
            return
        pages = self._state.wanted.pop(0)
        pages.take(rows, place)
        if pages.generations and self._loaded is not None:
            self._loaded.generations.update(pages.generations)
        waiter = None if self._page_waiters is None else self._page_waiters.pop(pages, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._move()

    def _replay_next(self) -> None:
        try:
            message = self._state.next_recorded(self._loop.timers_set)
        except NonDeterminismError as error:
            self._abort(error)
            return
        if message is not None:
            self._take(message)

    def _rest(self) -> None:
        due, is_parked = self.next_due(), not self._is_cleaning and not self._checks
        for step in self._steps.values():
            if step.retry_at is None:
                is_parked = False
                break
        if is_parked and self._steps:
            retries = (step.retry_at for step in self._steps.values())
            due = min((at for at in (due, *retries) if at is not None), default=None)
        self._tell_due(due, is_parked)

    def _tell_due(self, due: float | None, is_parked: bool) -> None:
        if is_parked or due != self._told_due:
            self._told_due = due
            self._host.at_rest(self._run, due, is_parked=is_parked)

    def _spin(self) -> bool:
        """The body gives way again and again, and there is no message: let it, though after a while not all the time.

        Its world changes by messages only. So it counts, or waits in vain; either way its timers must be armed.
        """
        self._tell_due(self.next_due(), is_parked=False)
        self._loop.spin_on()
        self._spins += 1
        if self._spins <= _EAGER_SPINS:
            self._is_moving = True
            return True
        if self._pause is not None:
            self._pause.cancel()
        self._pause = asyncio.get_running_loop().call_later(_SPIN_SECONDS, self._move)
        return False

    def next_due(self) -> float | None:
        """When a timer of the body, a sleep, or the timeout of an invoke is due."""
        timer = self._loop.next_due()
        other = None if self._alarms is None else self._alarms.next_due()
        if timer is None or other is None:
            return other if timer is None else timer
        return min(timer, other)

    def alarm(self, now: float) -> None:
        """Post what is due: each is recorded in the act that posts it, so that the record keeps the body's order."""
        self._told_due = None  # it is what has just come
        if self._is_cleaning:
            self._fire_unrecorded(now)
            return
        if self._run.is_doomed or self._state.replaying:
            return  # in a replay: what is due then, and not in the record, comes when the body rests
        while not self._is_closed:
            timer, due = self._loop.next_due(), self.next_due()
            if due is None or due > now:
                break
            if timer == due:
                number = self._loop.pop_due(now)
                assert number is not None
                self._host.timer_fired(self._run, number, now)
            elif self._alarms is not None:
                self._due(self._alarms.pop_due(now), now)
        self._tell_due(self.next_due(), is_parked=False)

    def _due(self, key: bytes | None, now: float) -> None:
        pending = None if key is None else self._state.is_pending(key)
        if pending is None:
            return
        if pending.kind is Kind.SLEEP:
            self._host.sleep_ended(self._run, pending, now)
        elif pending.kind is Kind.INVOKE:
            self._host.invoke_timed_out(self._run, pending, now)
        else:
            self._host.step_due(self._run, pending, now)

    def _fire_unrecorded(self, now: float) -> None:
        self._loop.set_time(now)
        while (number := self._loop.pop_due(now)) is not None:
            self._loop.fire(number)
        self._move()

    def _move(self) -> None:
        self._is_moving = True
        self._run.host.queue(self._run)

    # Effects

    def _perform_effects(self) -> bool:
        """Do what the body asked for; False when the slice is used up before all of it is done."""
        todo, state = self._effects, self._state
        while todo or state.effects:
            if not todo:
                todo = self._effects = state.effects
                state.effects = []
                if len(todo) > 1:
                    todo.reverse()
            effect = todo.pop()
            if isinstance(effect, Begin):
                self._begin_step(effect.pending)
            elif isinstance(effect, Resolve):
                self._resolve(effect.pending, effect.message)
            else:
                self._perform_rare(effect)
            if todo and self._is_over is not None and self._is_over():
                return False
        return True

    def _perform_rare(self, effect: Fire | Withdraw | Diverged | MarkMap) -> None:
        match effect:
            case Fire():
                self._loop.fire(effect.number)
            case Withdraw():
                self._withdraw(effect.pending)
            case Diverged():
                self._host.mark_diverged(self._run, effect.what)
            case MarkMap():
                self._mark_map(effect)

    def _mark_map(self, mark: MarkMap) -> None:
        if not self._run.is_doomed and not (self._task is not None and self._task.done()):
            self._host.mark_map(self._run, mark)

    def _begin_step(self, pending: Pending) -> None:
        if self._run.is_doomed:
            return  # asked for in the turn in which the body cancelled its own run, or cut off by a slice before
        if self._task is not None and self._task.done():
            return  # asked for in the turn in which the body ended: nobody awaits it, and a replay would not begin it
        match pending.kind:
            case Kind.RUN | Kind.TRANSACTION:
                self._begin_run(pending)
            case Kind.INVOKE:
                withdrawn = 0 if self._loaded is None else self._loaded.generations.get(pending.key, 0)
                self._host.invoke(self._run, pending, withdrawn + 1)
            case Kind.SLEEP:
                self.await_until(pending.key, self._due_of_sleep(pending))
            case _:
                due = self._host.begin_step(self._run, pending)
                if due is not None:
                    self.await_until(pending.key, due)

    def _due_of_sleep(self, pending: Pending) -> float:
        """One that an earlier attempt began goes on; it does not begin anew."""
        spec: SleepSpec = pending.spec
        begun = None if self._loaded is None else self._loaded.sleeps.get(pending.key)
        return spec.due if begun is None else begun

    def _begin_run(self, pending: Pending) -> None:
        retry = None if self._loaded is None else self._loaded.retries.get(pending.key)
        step = StepTask(self._host, self._run, pending, 0 if retry is None else retry.failures)
        self._steps[pending.key] = step
        if retry is not None and retry.due > self._host.now():
            step.retry_at = retry.due
            self._host.timers.add(step, retry.due)
        else:
            self._host.start_when_durable(self._run, step)

    def await_until(self, key: bytes, deadline: float) -> None:
        """The step has begun; at `deadline` it is due: the invoke of a child that runs has timed out.

        The host is told when the body has come to rest. It is in its turn, or queued.
        """
        if self._alarms is None:
            self._alarms = Alarms()
        self._alarms.add(key, deadline)

    @contextmanager
    def busy(self) -> Generator[None, None, None]:
        """Something is being looked up for it: it is not at rest."""
        self._checks += 1
        try:
            yield
        finally:
            self._checks -= 1

    def waits_for(self, pending: Pending) -> bool:
        return self._state.is_pending(pending.key) is pending

    def _resolve(self, pending: Pending, message: StepEnded) -> None:
        if self._alarms is not None:
            self._alarms.discard(pending.key)
        future = pending.future
        if future is not None and not future.done():
            future.set_result(message)

    def _withdraw(self, pending: Pending) -> None:
        if self._alarms is not None:
            self._alarms.discard(pending.key)
        step = self._steps.pop(pending.key, None)
        if step is not None:
            step.stop()
        elif pending.kind is Kind.INVOKE:
            self._host.withdraw(self._run, pending.key)
        elif pending.kind.outlives_process:
            self._host.withdraw_step(self._run, pending)
        elif pending.kind is Kind.SLEEP and self._loaded is not None:
            self._loaded.sleeps.pop(pending.key, None)  # a later attempt that comes to it sleeps anew

    def step_left(self, step: StepTask) -> bool:
        """The step is no longer in flight; False when nobody waits for it any more."""
        return self._steps.pop(step.pending.key, None) is step and not self._is_closed

    # The end of the attempt

    def _finish(self, task: RunTask) -> None:
        has_failed = task.cancelled() or task.exception() is not None
        sleeps = self._open_sleeps() if has_failed else {}
        self._close("its attempt has ended")
        if self._is_cleaning:
            self._host.cleaned_up(self._run, task)
        else:
            failed_keys = self._failed_keys(task) if has_failed else []
            self._host.attempt_ended(self._run, task, failed_keys, sleeps)

    def _open_sleeps(self) -> dict[bytes, float]:
        """Those under way, begun or (when the attempt ends within its replay) not yet begun again, and those that an
        earlier attempt began and this one has not come to."""
        sleeping = (pending for pending in self._state.pending if pending.kind is Kind.SLEEP)
        left = {} if self._loaded is None else self._loaded.sleeps
        return {**left, **{pending.key: self._due_of_sleep(pending) for pending in sleeping}}

    def _failed_keys(self, task: RunTask) -> list[bytes]:
        """Keys of the step failures that ended the attempt: raised as such, in a group, or as an explicit cause.

        Not those in `__context__`: what was caught, and what was done about it, stands.
        """
        if task.cancelled() or self._failures is None:
            return []
        return _that_ended(task, self._failures)

    def invokes_that_ended(self, task: asyncio.Future[Any]) -> list[bytes]:
        """Keys of the children whose end ended the attempt in the same ways."""
        return [] if task.cancelled() or self._invoke_failures is None else _that_ended(task, self._invoke_failures)

    def _close(self, why: str) -> None:
        """Interrupt what is left of it; nothing of it is recorded. Children in flight stay: that is no withdrawal."""
        self._is_closed = True
        self._state.refuse(why)
        if self._steps:
            for step in tuple(self._steps.values()):
                step.stop()
            self._steps.clear()
        if left := self._loop.pending_tasks():
            self._end_tasks(left)
        self._loop.on_foreign = None
        self._loop.close()

    def _end_tasks(self, tasks: list[RunTask]) -> None:
        # More than once: what a cleanup awaits here will never come, and each round cuts one more such wait short.
        is_over = _once()
        self._loop.is_ending = True
        for task in tasks:
            task.look_away()
        for _ in range(_CLOSING_ROUNDS):
            for task in tasks:
                task.cancel()
            self._loop.spin_on()
            has_rested = self._loop.run(is_over)
            tasks = self._loop.pending_tasks()
            if not tasks or not has_rested:
                break
        for task in tasks:
            task.drop()  # it refused to end and is dropped on purpose

    def _abort(self, error: BaseException) -> None:
        """End the attempt with an error that the body cannot catch."""
        failed: asyncio.Future[Any] = self._loop.create_future()
        failed.set_exception(error)
        failed.exception()
        self._close(str(error))
        self._host.attempt_ended(self._run, failed, [], {})  # type: ignore[arg-type]

    # Cancellation

    def _clean_up(self) -> None:
        """Interrupt the body; it may clean up, with timers but without steps, for as long as its grace lasts."""
        if self._is_cleaning or self._task is None:
            return
        self._is_cleaning = True
        self._loop.set_time(self._host.now())  # what it waits for while cleaning up, it waits for from now on
        self._state.refuse(_CANCELLED)
        for step in tuple(self._steps.values()):
            step.stop()
        self._task.cancel()
        self._is_moving = True

    def interrupt_again(self) -> None:
        """It has not ended by the soft deadline."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._move()

    def shut_down(self) -> None:
        """The runtime closes: interrupt everything and record nothing; the run goes on when it is opened again."""
        if not self._is_closed:
            self._close("the runtime is closing; the run goes on when it is opened again")

    def abandon(self) -> None:
        """Wait for it no longer. It is fenced: nothing it does is recorded, and it is not driven any more."""
        self._is_closed = True
        for task in self._loop.pending_tasks():
            task.drop()  # it is dropped on purpose
        self._loop.let_go()
        self._loop.on_foreign = None

    def step_tasks(self) -> list[StepTask]:
        return list(self._steps.values())

    @property
    def body(self) -> RunTask | None:
        return self._task

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    # What is to be seen of it

    @property
    def is_moving(self) -> bool:
        """It is, or may be, not at rest."""
        return self._is_moving

    @property
    def pending(self) -> list[Pending]:
        """The steps that the body waits for."""
        return list(self._state.pending)

    def step_task(self, key: bytes) -> StepTask | None:
        return self._steps.get(key)

    @property
    def next_of_record(self) -> str | None:
        """What of its record it has not come to, in words."""
        return self._state.next_of_record

    def due_of(self, key: bytes) -> float | None:
        """When a sleep ends, or what waits times out."""
        return None if self._alarms is None else self._alarms.due_of(key)

    def _refuse_foreign(self) -> None:
        self._loop.refuse_foreign_calls()
        self._move()

    # What the body sees of it (`step.Body`)

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

    def patched(self, name: str) -> bool:
        if not self._loop.is_running():
            raise self._outside(f"ctx.patched({name!r})")
        answer, key = self._state.patched(name)
        if key is not None and not self._run.is_doomed:
            self._host.record_patch(self._run, key, name)
        return answer

    async def transact(
        self, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float, codec: Codec
    ) -> Any:
        return await self._host.transact(self._run, key, step_id, fn, args, timeout, codec)

    def report(self, key: str, value: object) -> None:
        if not self._loop.is_running():
            raise self._outside("ctx.report")
        blob = self._host.codec_of(Any).round_trip(value)[0]
        self._reports += 1
        if not self._is_closed:
            self._host.report(self._run, key, self._reports, blob)

    def _explain(self, step_id: str, known: Known) -> str:
        here, task = place_on_stack(), self._task
        if not here and task is not None:  # the body is at rest, or a task of its own asks
            here = " > ".join(await_chain(task))
        before = self._host.recorded_place(self._run, step_id, known.kind, known.target)
        return f" The code is now at {here or 'its begin'}; it was recorded at {before or 'a place that was not kept'}."

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

    def withdraw(self, key: bytes) -> None:
        self._state.withdraw(key)

    def _outside(self, what: str) -> StepRefusedError:
        return StepRefusedError(
            f"{self.where}: {what} was called from outside the workflow's body (inside another step?); "
            f"steps do not nest: call it in the body"
        )

    @property
    def run_id(self) -> str:
        return self._run.row.run_id

    @property
    def own_workflow(self) -> Workflow[Any, Any]:
        assert self._run.workflow is not None
        return self._run.workflow

    def note_failure(self, error: BaseException, key: bytes) -> None:
        if self._failures is None:
            self._failures = []
        self._failures.append((error, key))

    def note_invoke_failure(self, error: BaseException, key: bytes) -> None:
        if self._invoke_failures is None:
            self._invoke_failures = []
        self._invoke_failures.append((error, key))

    def now(self) -> float:
        return self._loop.time()

    def seconds(self, value: Duration, name: str, maximum: float | None = None) -> float:
        return self._host.seconds(value, name, maximum)

    def codec_of(self, annotation: object) -> Codec:
        return self._host.codec_of(annotation)

    def step_codec(self, fn: Callable[..., Any]) -> Codec:
        return self._host.step_codec(fn)

    def condition(self, match: str | None, where: str | None) -> Node | None:
        return self._host.condition(match, where)

    def workflow(self, workflow_id: str) -> Workflow[Any, Any]:
        found = self._host.find_workflow(workflow_id)
        if found is None:
            known = ", ".join(map(repr, self._host.known_workflow_ids())) or "none"
            raise InvokeTargetError(
                f"{self.where}: no workflow {workflow_id!r} is registered (known: {known}); "
                f"name it in Runtime(workflows=[…])"
            )
        return found

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        self._host.register(workflow)
        return self._host.codecs_of(workflow)

    def result_codec(self, workflow_id: str) -> Codec:
        found = self._host.find_workflow(workflow_id)
        return self._host.codec_of(Any) if found is None else self._host.codecs_of(found)[1]

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

    async def cancel(self, reason: str) -> NoReturn:
        if not self._loop.is_running():
            raise self._outside("ctx.cancel")
        if self._is_cleaning:
            raise asyncio.CancelledError  # it is cancelled already, and this must not hold up its cleanup
        if self._is_closed:
            raise StepRefusedError(f"{self.where}: ctx.cancel refused: this attempt has ended")
        self._host.cancel_from_inside(self._run, reason)
        while True:
            await self._loop.create_future()

    def _make_context(self) -> Context:
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

    def is_replaying(self) -> bool:
        return self._state.replaying

    def event(self) -> Event:
        workflow = self._run.workflow
        assert workflow is not None
        row = self._run.row
        if row.event is not None:
            note = msgspec.msgpack.decode(row.event, type=EventNote)
            data = None if row.input is None else self._host.codec_of(Any).decode(row.input)
            return Event(note.name, data, note.id, _utc(note.at))
        data = self._host.codecs_of(workflow)[0].decode(row.input) if row.input is not None else None
        name = workflow.on if isinstance(workflow.on, str) else workflow.id
        return Event(name, data, row.run_id, _utc(row.created_at))


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _state_of(run: Run, loaded: Loaded | None, is_replaying: bool, is_strict: bool) -> RunState:
    if loaded is None:
        return RunState(run, strict=is_strict)
    if not is_replaying:
        maps = Maps(run.history_seq) if loaded.has_maps else None
        return RunState(run, memo={**loaded.recorded, **loaded.memo}, strict=is_strict, maps=maps)
    began = run.row.attempt_seq
    return RunState(run, memo=loaded.memo, record=loaded.record, recorded=loaded.recorded,
                    inherited=loaded.inherited, strict=is_strict, replaying=True,
                    maps=Maps(began) if loaded.has_maps else None,
                    pages=EndPages(b"", began, run.history_seq) if loaded.has_maps else None)  # fmt: skip


def _once() -> Callable[[], bool]:
    """A slice for clean-up after the end of an attempt: what spins there is cut off."""
    looks = iter(range(1_000))
    return lambda: next(looks, None) is None


def _that_ended(task: asyncio.Future[Any], failures: list[tuple[BaseException, bytes]]) -> list[bytes]:
    ended_by = _leaves_and_causes(task.exception())
    return [key for error, key in failures if id(error) in ended_by]


def _leaves_and_causes(error: BaseException | None) -> dict[int, BaseException]:
    """By identity: there may be many, and exceptions need not be hashable."""
    found: dict[int, BaseException] = {}
    todo = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in found:
            continue
        found[id(each)] = each
        todo.append(each.__cause__)
        if isinstance(each, BaseExceptionGroup):
            todo.extend(cast("BaseExceptionGroup[BaseException]", each).exceptions)
    return found
