"""The steps of one attempt: begun, answered, withdrawn, and due.

The state machine says what is to be done; here it is done, and what has begun is known until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rotor_actors.actor_host import ActorHost
from rotor_actors.alarms import Alarms
from rotor_actors.loading import Loaded
from rotor_actors.loop_tasks import RunTask
from rotor_actors.messages import Begin, Diverged, Effect, Fire, MarkMap, Pending, Resolve, StepEnded, Withdraw
from rotor_actors.records import Kind
from rotor_actors.run import Run
from rotor_actors.run_loop import RunLoop
from rotor_actors.run_state import RunState
from rotor_actors.step_specs import SleepSpec
from rotor_actors.step_task import StepTask


class AttemptSteps:
    """Performs the effects of one attempt's state, in their order.

    Args:
        loaded: what is recorded of the run, if anything is.
    """

    __slots__ = ("_alarms", "_checks", "_host", "_loaded", "_loop", "_run", "_state", "_tasks", "body", "todo")

    def __init__(self, host: ActorHost, run: Run, loop: RunLoop, state: RunState, loaded: Loaded | None) -> None:
        self._host = host
        self._run = run
        self._loop = loop
        self._state = state
        self._loaded = loaded
        self.body: RunTask | None = None
        """The task of the workflow's function: what is asked for when it has ended does not begin."""
        self.todo: list[Effect] = []
        """Last first. Those that were cut off by a slice come before what the body asks for later."""
        self._tasks: dict[bytes, StepTask] = {}
        self._alarms: Alarms[bytes] | None = None
        self._checks = 0

    # Effects

    def perform(self, is_over: Callable[[], bool] | None) -> bool:
        """Do what the body asked for; False when the slice is used up before all of it is done."""
        todo, state = self.todo, self._state
        while todo or state.effects:
            if not todo:
                todo = self.todo = state.effects
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
            if todo and is_over is not None and is_over():
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
                if not self._run.is_doomed and not (self.body is not None and self.body.done()):
                    self._host.mark_map(self._run, effect)

    def _begin_step(self, pending: Pending) -> None:
        if self._run.is_doomed:
            return  # asked for in the turn in which the body cancelled its own run, or cut off by a slice before
        if self.body is not None and self.body.done():
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

    def _begin_run(self, pending: Pending) -> None:
        retry = None if self._loaded is None else self._loaded.retries.get(pending.key)
        step = StepTask(self._host, self._run, pending, 0 if retry is None else retry.failures)
        self._tasks[pending.key] = step
        if retry is not None and retry.due > self._host.now():
            step.retry_at = retry.due
            self._host.timers.add(step, retry.due)
        else:
            self._host.start_when_durable(self._run, step)

    def _resolve(self, pending: Pending, message: StepEnded) -> None:
        if self._alarms is not None:
            self._alarms.discard(pending.key)
        future = pending.future
        if future is not None and not future.done():
            future.set_result(message)

    def _withdraw(self, pending: Pending) -> None:
        if self._alarms is not None:
            self._alarms.discard(pending.key)
        step = self._tasks.pop(pending.key, None)
        if step is not None:
            step.stop()
        elif pending.kind is Kind.INVOKE:
            self._host.withdraw(self._run, pending.key)
        elif pending.kind.outlives_process:
            self._host.withdraw_step(self._run, pending)
        elif pending.kind is Kind.SLEEP and self._loaded is not None:
            self._loaded.sleeps.pop(pending.key, None)  # a later attempt that comes to it sleeps anew

    # What is under way

    def waits_for(self, pending: Pending) -> bool:
        return self._state.is_pending(pending.key) is pending

    @contextmanager
    def busy(self) -> Generator[None, None, None]:
        """Something is being looked up for it: it is not at rest."""
        self._checks += 1
        try:
            yield
        finally:
            self._checks -= 1

    def left(self, step: StepTask) -> bool:
        """The step is no longer in flight; False when nobody waits for it any more."""
        return self._tasks.pop(step.pending.key, None) is step and not self._loop.is_ending

    def task(self, key: bytes) -> StepTask | None:
        return self._tasks.get(key)

    def tasks(self) -> list[StepTask]:
        return list(self._tasks.values())

    def interrupt(self) -> None:
        """Those in flight end; nothing of them is recorded."""
        for step in tuple(self._tasks.values()):
            step.stop()

    def stop(self) -> None:
        """The attempt is over: interrupt them, and know them no longer."""
        if self._tasks:
            self.interrupt()
            self._tasks.clear()

    # When they are due

    def await_until(self, key: bytes, deadline: float) -> None:
        """The step has begun; at `deadline` it is due: the invoke of a child that runs has timed out.

        The host is told when the body has come to rest. It is in its turn, or queued.
        """
        if self._alarms is None:
            self._alarms = Alarms()
        self._alarms.add(key, deadline)

    def due_of(self, key: bytes) -> float | None:
        """When a sleep ends, or what waits times out."""
        return None if self._alarms is None else self._alarms.due_of(key)

    def next_due(self) -> float | None:
        """When a timer of the body, a sleep, or the timeout of an invoke is due."""
        timer = self._loop.next_due()
        other = None if self._alarms is None else self._alarms.next_due()
        if timer is None or other is None:
            return other if timer is None else timer
        return min(timer, other)

    def rest(self) -> tuple[float | None, bool]:
        """With the body at rest: when something is due next, and whether the run can be at rest in the store till
        then. It cannot while a step is executed, or something is looked up."""
        due = self.next_due()
        if self._checks:
            return due, False
        for step in self._tasks.values():
            if step.retry_at is None:
                return due, False
        if self._tasks:
            retries = (step.retry_at for step in self._tasks.values())
            due = min((at for at in (due, *retries) if at is not None), default=None)
        return due, True

    def end_due(self, now: float) -> None:
        """Post what is due: each is recorded in the act that posts it, so that the record keeps the body's order."""
        while not self._loop.is_ending:
            timer, due = self._loop.next_due(), self.next_due()
            if due is None or due > now:
                break
            if timer == due:
                number = self._loop.pop_due(now)
                assert number is not None
                self._host.timer_fired(self._run, number, now)
            elif self._alarms is not None:
                self._end_step(self._alarms.pop_due(now), now)

    def _end_step(self, key: bytes | None, now: float) -> None:
        pending = None if key is None else self._state.is_pending(key)
        if pending is None:
            return
        if pending.kind is Kind.SLEEP:
            self._host.sleep_ended(self._run, pending, now)
        elif pending.kind is Kind.INVOKE:
            self._host.invoke_timed_out(self._run, pending, now)
        else:
            self._host.step_due(self._run, pending, now)

    def open_sleeps(self) -> dict[bytes, float]:
        """Those under way, begun or (when the attempt ends within its replay) not yet begun again, and those that an
        earlier attempt began and this one has not come to."""
        sleeping = (pending for pending in self._state.pending if pending.kind is Kind.SLEEP)
        left = {} if self._loaded is None else self._loaded.sleeps
        return {**left, **{pending.key: self._due_of_sleep(pending) for pending in sleeping}}

    def _due_of_sleep(self, pending: Pending) -> float:
        """One that an earlier attempt began goes on; it does not begin anew."""
        spec: SleepSpec = pending.spec
        begun = None if self._loaded is None else self._loaded.sleeps.get(pending.key)
        return spec.due if begun is None else begun
