"""The task that owns a supervisor's children: it alone starts them, stops them and changes their table.

One message after the other, as in OTP: while a child is being stopped, other calls wait.
"""

from __future__ import annotations

import asyncio
from typing import assert_never

from supervisors import log
from supervisors.child import Child
from supervisors.decision import Decision
from supervisors.errors import (
    ChildNotFoundError,
    ChildRestartingError,
    ChildRunningError,
    ChildStartError,
    MaxRestartsExceeded,
    SupervisorError,
    SupervisorNotRunningError,
)
from supervisors.exits import STOPPED, Ending, Exit, ExitKind
from supervisors.inbox import Inbox
from supervisors.info import Slot
from supervisors.intensity import add_restart
from supervisors.lives import Lives
from supervisors.messages import (
    Call,
    DeleteChild,
    Ended,
    Message,
    RestartChild,
    StartChild,
    TerminateChild,
    TryAgain,
    answer,
    refuse,
)
from supervisors.settings import Settings
from supervisors.spec import ChildId, ChildSpec
from supervisors.table import ChildState, ChildTable

__all__ = ["Owner"]


class Owner:
    """One life of a supervisor.

    Attributes:
        table: the children; only the owner's task changes it.
        ready: done when the initial children are started, or could not be.
        failure: why the supervisor ends, or ended, by itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._inbox: Inbox[Message] = Inbox()
        self._restarts: tuple[float, ...] = ()
        self._lives = Lives(
            settings.name,
            settings.kill_seconds,
            on_end=lambda slot, child: self._inbox.put(Ended(slot, child)),
            on_teardown=self._inbox.close,
        )
        self.table: ChildTable[Slot] = ChildTable()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.failure: SupervisorError | None = None
        self.task = self._loop.create_task(self._live(), name=settings.name)

    @property
    def stuck(self) -> list[Child]:
        """Children that were abandoned and still run."""
        return self._lives.stuck

    def post(self, call: Call) -> None:
        """Have a call carried out. Raises `SupervisorNotRunningError` once the supervisor is stopping."""
        if not self._inbox.put(call):
            raise self._not_running()

    def request_stop(self) -> None:
        """Have all children stopped, ahead of all calls that are waiting. Harmless when repeated."""
        self._inbox.close()

    async def _live(self) -> None:
        try:
            self._start_initial_children()
            answer(self.ready, None)
            await self._serve()
        finally:
            self._inbox.close()
            await self._stop_all()
            self._refuse_the_rest()
            answer(self.ready, None)

    async def _serve(self) -> None:
        try:
            while (message := await self._inbox.get()) is not None:
                await self._handle(message)
        except asyncio.CancelledError:
            # Only the host cancels the owner, when it tears down its loop: an order to stop like any other.
            self._inbox.close()

    async def _handle(self, message: Message) -> None:
        match message:
            case Ended(slot, child):
                await self._on_ended(slot, child)
            case TryAgain(slot, exit):
                if self._is_in(slot, ChildState.RESTARTING):
                    await self._restart(slot, exit)
            case _:
                await self._carry_out(message)

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, call: Call) -> None:
        """A call is carried out even if its caller has gone: giving up on the answer takes nothing back."""
        try:
            answer(call.reply, await self._result_of(call))
        except SupervisorError as error:
            if not refuse(call.reply, error) and isinstance(error, ChildStartError):
                log.not_started(self._settings.name, error)

    async def _result_of(self, call: Call) -> object:
        match call:
            case StartChild(spec):
                return self._start_new(spec)
            case TerminateChild(child_id):
                return await self._stop(self._slot(child_id))
            case RestartChild(child_id):
                return self._start_terminated(child_id)
            case DeleteChild(child_id):
                self._check_terminated(child_id)
                self.table.remove(child_id)
                return None
            case _:
                assert_never(call)

    def _start_new(self, spec: ChildSpec) -> Child:
        slot = Slot(spec)
        self.table.add(spec.id, slot, spec.restart)
        try:
            return self._lives.start(slot)
        except ChildStartError:
            self.table.remove(spec.id)
            raise

    def _start_terminated(self, child_id: ChildId) -> Child:
        self._check_terminated(child_id)
        child = self._lives.start(self._slot(child_id))
        self.table.started(child_id)
        return child

    def _slot(self, child_id: ChildId) -> Slot:
        slot = self.table.get(child_id)
        if slot is None:
            raise ChildNotFoundError(child_id)
        return slot

    def _check_terminated(self, child_id: ChildId) -> None:
        match self.table.state(child_id):
            case ChildState.RUNNING:
                raise ChildRunningError(child_id)
            case ChildState.RESTARTING:
                raise ChildRestartingError(child_id)
            case ChildState.TERMINATED:
                return

    def _refuse_the_rest(self) -> None:
        for message in self._inbox.drain():
            if not isinstance(message, (Ended, TryAgain)):
                refuse(message.reply, self._not_running())

    def _not_running(self) -> SupervisorNotRunningError:
        error = SupervisorNotRunningError(f"supervisor {self._settings.name!r} is stopping or has ended")
        error.__cause__ = self.failure
        return error

    # -- starting ------------------------------------------------------------------------------------------------

    def _start_initial_children(self) -> None:
        """All of them before the first call; one that cannot be started ends the supervisor (OTP: `start_link`)."""
        try:
            for spec in self._settings.children:
                self._start_new(spec)
        except SupervisorError as error:
            self.failure = error
            self._inbox.close()

    # -- restarting ----------------------------------------------------------------------------------------------

    async def _on_ended(self, slot: Slot, child: Child) -> None:
        # Old news if its owner has stopped, replaced or forgotten the child since.
        exit = child.exit
        if exit is None or slot.child is not child or not self._is_in(slot, ChildState.RUNNING):
            return
        if self.table.ended(child.id, exit) is Decision.RESTART:
            await self._restart(slot, exit)
        else:
            log.not_restarted(self._settings.name, child.id, exit)

    def _is_in(self, slot: Slot, state: ChildState) -> bool:
        return self.table.get(slot.spec.id) is slot and self.table.state(slot.spec.id) is state

    async def _restart(self, slot: Slot, exit: Exit) -> None:
        settings, child_id = self._settings, slot.spec.id
        self._restarts, is_exceeded = add_restart(
            self._restarts, settings.clock(), settings.max_restarts, settings.max_seconds
        )
        if is_exceeded:
            self._give_up(child_id, exit)
            return
        log.restarting(settings.name, child_id, exit)
        plan = self.table.plan(settings.strategy, child_id)
        for sibling in plan.stop:
            await self._stop(sibling)
        for sibling in plan.start:
            if self._inbox.is_closed or not self._start_again(sibling):
                return

    def _start_again(self, slot: Slot) -> bool:
        """Start an ended child. If that fails the rest waits for another try, which counts as one more restart."""
        try:
            self._lives.start(slot)
        except ChildStartError as error:
            self.table.restarting(slot.spec.id)
            exit = Exit(ExitKind.ERROR, Ending.RAISED, error)
            # Not from here: calls and the host's loop get their turn between two tries, as in OTP.
            self._loop.call_soon(self._inbox.put, TryAgain(slot, exit))
            return False
        slot.restarts += 1
        self.table.started(slot.spec.id)
        return True

    def _give_up(self, child_id: ChildId, exit: Exit) -> None:
        settings = self._settings
        self.failure = MaxRestartsExceeded(
            supervisor=settings.name,
            child_id=child_id,
            restarts=len(self._restarts),
            max_restarts=settings.max_restarts,
            max_seconds=settings.max_seconds,
        )
        self.failure.__cause__ = exit.error
        log.gave_up(self.failure)
        self._inbox.close()

    # -- stopping ------------------------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        for slot in self.table.shutdown_order():
            await self._stop(slot)

    async def _stop(self, slot: Slot) -> Exit | None:
        """Stop a child in whatever state; None if it was not running. Never hangs on a refusing child."""
        child_id, child = slot.spec.id, slot.child
        exit = None
        if child is not None and self.table.state(child_id) is ChildState.RUNNING:
            exit = await self._lives.stop(child)
        # Asked to end is what counts here, even if it had failed a moment before.
        self.table.ended(child_id, STOPPED)
        return exit
