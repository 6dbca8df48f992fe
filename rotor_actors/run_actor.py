"""The shell around one attempt of a run: it takes messages, and drives the body on its own loop until it is at rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rotor_actors.actor_host import ActorHost
from rotor_actors.attempt_body import AttemptBody
from rotor_actors.attempt_state import state_of_attempt
from rotor_actors.attempt_steps import AttemptSteps
from rotor_actors.code_places import place_on_stack
from rotor_actors.context import Context
from rotor_actors.errors import NonDeterminismError
from rotor_actors.loading import Loaded
from rotor_actors.loop_ending import end_tasks
from rotor_actors.loop_tasks import RunTask
from rotor_actors.messages import Known, Pending, StepEnded, TimerFired
from rotor_actors.records import ChildRow, StepRow
from rotor_actors.run import Run
from rotor_actors.run_loop import RunLoop
from rotor_actors.step import Step
from rotor_actors.step_invoke import invoke_outcome
from rotor_actors.step_task import StepTask
from supervisors import await_chain

# A body that spins goes on at once so often; then it pauses, for it seems to wait for something.
_EAGER_SPINS = 20
_SPIN_SECONDS = 0.005
# Of a wide fan-out these are most tasks of its body. What user code they call (a type's own hooks) sees the context.
_PLAIN = frozenset({Step.run.__code__, Step.invoke.__code__, Step.invoke_by_id.__code__, invoke_outcome.__code__,
                    Context.invoke.__code__, Step.sleep.__code__})  # fmt: skip
_CANCELLED = "the run is cancelled and only cleans up; durable compensation belongs in the workflow's on_cancel handler"


class RunActor:
    """One attempt of one run. What its body asks for, `steps` performs; what the body sees of it is an `AttemptBody`."""

    __slots__ = ("_body", "_host", "_is_cleaning", "_is_closed", "_is_fetching", "_is_moving", "_is_over", "_loaded",
                 "_loop", "_pause", "_run", "_spins", "_state", "_told_due", "steps")  # fmt: skip

    def __init__(
        self, host: ActorHost, run: Run, loaded: Loaded | None, *, is_replaying: bool, is_strict: bool
    ) -> None:
        assert run.row.attempt_at is not None
        self._host = host
        self._run = run
        self._loaded = loaded
        self._loop = RunLoop(run.row.attempt_at, run.row.run_id, asyncio.get_running_loop(), run, _PLAIN)  # type: ignore[abstract]
        self._loop.on_foreign = self._refuse_foreign
        self._state = state_of_attempt(run, loaded, is_replaying, is_strict)
        if loaded is not None:
            self._state.explain = self._explain
        self._body = AttemptBody(host, run, self._loop, self._state)
        self.steps = AttemptSteps(host, run, self._loop, self._state, loaded)
        self._told_due: float | None = None
        """What the host was told last of when something is due."""
        self._is_cleaning = False
        self._is_closed = False
        self._is_moving = True
        """The body is, or may be, not at rest."""
        self._is_fetching = False
        """What is recorded of its maps is being read: until it is here, nothing else is taken."""
        self._is_over: Callable[[], bool] | None = None
        self._spins = 0
        self._pause: asyncio.TimerHandle | None = None

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
        self.steps.body = self._loop.create_task(make_body(self._body.make_context()), context=context)

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
            self.steps.perform(self._is_over)

    def _run_to_rest(self) -> bool:
        """Run the body, perform what it asked for, replay what answers it; False when the slice is used up."""
        steps = self.steps
        while True:
            self._run.context_of_turn = None
            is_at_rest = self._loop.run(self._is_over)
            if (steps.todo or self._state.effects) and not steps.perform(self._is_over):
                return False
            if not is_at_rest and not self._loop.is_spinning:
                return False
            if steps.body is not None and steps.body.done():
                self._finish(steps.body)
                return True
            if self._state.wanted and not self._is_cleaning:
                self._is_fetching = True
                self._host.fetch(self._run, self._state.wanted[0])
                return True
            if not self._state.replaying:
                return True
            if self._loop.is_spinning and not self._state.is_next_asked(self._loop.timers_set):
                self._loop.spin_on()  # it has not come as far yet as it had when the record's next message came
                return False
            self._replay_next()
            if self._is_closed:
                return True

    def _replay_next(self) -> None:
        try:
            message = self._state.next_recorded(self._loop.timers_set)
        except NonDeterminismError as error:
            self._abort(error)
            return
        if message is not None:
            self._take(message)

    def page_came(self, rows: list[StepRow | ChildRow], place: tuple[int, int] | None) -> None:
        """The page that it stands still for."""
        self._is_fetching = False
        if self._is_closed or self._is_cleaning:
            return
        pages = self._state.wanted.pop(0)
        pages.take(rows, place)
        if pages.generations and self._loaded is not None:
            self._loaded.generations.update(pages.generations)
        self._body.page_came(pages)
        self._move()

    def _move(self) -> None:
        self._is_moving = True
        self._run.host.queue(self._run)

    def _refuse_foreign(self) -> None:
        self._loop.refuse_foreign_calls()
        self._move()

    # At rest, until something is due

    def _rest(self) -> None:
        if self._is_cleaning:
            self._tell_due(self.steps.next_due(), is_parked=False)
        else:
            due, is_parked = self.steps.rest()
            self._tell_due(due, is_parked)

    def _tell_due(self, due: float | None, is_parked: bool) -> None:
        if is_parked or due != self._told_due:
            self._told_due = due
            self._host.at_rest(self._run, due, is_parked=is_parked)

    def _spin(self) -> bool:
        """The body gives way again and again, and there is no message: let it, though after a while not all the time.

        Its world changes by messages only. So it counts, or waits in vain; either way its timers must be armed.
        """
        self._tell_due(self.steps.next_due(), is_parked=False)
        self._loop.spin_on()
        self._spins += 1
        if self._spins <= _EAGER_SPINS:
            self._is_moving = True
            return True
        if self._pause is not None:
            self._pause.cancel()
        self._pause = asyncio.get_running_loop().call_later(_SPIN_SECONDS, self._move)
        return False

    def alarm(self, now: float) -> None:
        """Something is due."""
        self._told_due = None  # it is what has just come
        if self._is_cleaning:
            self._fire_unrecorded(now)
        elif not self._run.is_doomed and not self._state.replaying:
            # In a replay: what is due then, and not in the record, comes when the body rests.
            self.steps.end_due(now)
            self._tell_due(self.steps.next_due(), is_parked=False)

    def _fire_unrecorded(self, now: float) -> None:
        self._loop.set_time(now)
        while (number := self._loop.pop_due(now)) is not None:
            self._loop.fire(number)
        self._move()

    # The end of the attempt

    def _finish(self, task: RunTask) -> None:
        has_failed = task.cancelled() or task.exception() is not None
        sleeps = self.steps.open_sleeps() if has_failed else {}
        self._close("its attempt has ended")
        if self._is_cleaning:
            self._host.cleaned_up(self._run, task)
        else:
            failures = self._body.failures
            failed_keys = failures.steps_that_ended(task) if has_failed and failures is not None else []
            self._host.attempt_ended(self._run, task, failed_keys, sleeps)

    def invokes_that_ended(self, task: asyncio.Future[Any]) -> list[bytes]:
        """Keys of the children whose end ended the attempt."""
        return [] if self._body.failures is None else self._body.failures.invokes_that_ended(task)

    def _close(self, why: str) -> None:
        """Interrupt what is left of it; nothing of it is recorded. Children in flight stay: that is no withdrawal."""
        self._is_closed = self._loop.is_ending = True
        self._state.refuse(why)
        self.steps.stop()
        end_tasks(self._loop)
        self._loop.on_foreign = None
        self._loop.close()

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
        if self._is_cleaning or self.steps.body is None:
            return
        self._is_cleaning = self._body.is_cleaning = True
        self._loop.set_time(self._host.now())  # what it waits for while cleaning up, it waits for from now on
        self._state.refuse(_CANCELLED)
        self.steps.interrupt()
        self.steps.body.cancel()
        self._is_moving = True

    def interrupt_again(self) -> None:
        """It has not ended by the soft deadline."""
        if self.steps.body is not None and not self.steps.body.done():
            self.steps.body.cancel()
            self._move()

    def shut_down(self) -> None:
        """The runtime closes: interrupt everything and record nothing; the run goes on when it is opened again."""
        if not self._is_closed:
            self._close("the runtime is closing; the run goes on when it is opened again")

    def abandon(self) -> None:
        """Wait for it no longer. It is fenced: nothing it does is recorded, and it is not driven any more."""
        self._is_closed = self._loop.is_ending = True
        for task in self._loop.pending_tasks():
            task.drop()  # it is dropped on purpose
        self._loop.let_go()
        self._loop.on_foreign = None

    # What is to be seen of it

    @property
    def body(self) -> RunTask | None:
        return self.steps.body

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_moving(self) -> bool:
        """It is, or may be, not at rest."""
        return self._is_moving

    @property
    def pending(self) -> list[Pending]:
        """The steps that the body waits for."""
        return list(self._state.pending)

    def step_tasks(self) -> list[StepTask]:
        return self.steps.tasks()

    @property
    def next_of_record(self) -> str | None:
        """What of its record it has not come to, in words."""
        return self._state.next_of_record

    def _explain(self, step_id: str, known: Known) -> str:
        here, body = place_on_stack(), self.steps.body
        if not here and body is not None:  # the body is at rest, or a task of its own asks
            here = " > ".join(await_chain(body))
        before = self._host.recorded_place(self._run, step_id, known.kind, known.target)
        return f" The code is now at {here or 'its begin'}; it was recorded at {before or 'a place that was not kept'}."
