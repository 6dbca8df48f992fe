"""Every error of this library, one base above them all.

`ChildNotFoundError`, `ChildExistsError`, `ChildRunningError` and `ChildRestartingError` answer one call and change
nothing. `ChildStartError` means the child was not started. `SupervisorNotRunningError` means the supervisor is gone
for good, or was never started. `MaxRestartsExceeded` is how a supervisor ends that could not keep its children up.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = [
    "ChildError",
    "ChildExistsError",
    "ChildNotFoundError",
    "ChildRestartingError",
    "ChildRunningError",
    "ChildStartError",
    "ExitShutdown",
    "MaxRestartsExceeded",
    "SupervisorError",
    "SupervisorNotRunningError",
]


class SupervisorError(Exception):
    """Base of every error of this library."""


class ChildError(SupervisorError):
    """An error about one child; `child_id` names it."""

    def __init__(self, child_id: Hashable, message: str) -> None:
        super().__init__(message)
        self.child_id = child_id


class ChildNotFoundError(ChildError):
    """There is no child specification with this id (OTP: `{error, not_found}`).

    A temporary child's specification is gone as soon as the child has ended.
    """

    def __init__(self, child_id: Hashable) -> None:
        super().__init__(child_id, f"no child with id {child_id!r}")


class ChildExistsError(ChildError):
    """A child specification with this id is already there (OTP: `already_started`, `already_present`).

    `is_running` tells which of the two: a running child wants `terminate_child`, one that has ended can be
    `restart_child`ed or `delete_child`ed.
    """

    def __init__(self, child_id: Hashable, *, is_running: bool) -> None:
        remedy = "it is running" if is_running else "it has ended: use restart_child, or delete_child first"
        super().__init__(child_id, f"child {child_id!r} already exists; {remedy}")
        self.is_running = is_running


class ChildRunningError(ChildError):
    """What was asked for needs a child that is not running (OTP: `{error, running}`)."""

    def __init__(self, child_id: Hashable) -> None:
        super().__init__(child_id, f"child {child_id!r} is running; use terminate_child first")


class ChildRestartingError(ChildError):
    """What was asked for needs a child that is not about to be restarted (OTP: `{error, restarting}`)."""

    def __init__(self, child_id: Hashable) -> None:
        super().__init__(child_id, f"child {child_id!r} is being restarted; use terminate_child first")


class ChildStartError(ChildError):
    """The child's `start` raised, or gave no coroutine: the child was not started. `__cause__` is what it raised."""

    def __init__(self, child_id: Hashable, cause: BaseException) -> None:
        super().__init__(child_id, f"child {child_id!r} could not be started: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


class SupervisorNotRunningError(SupervisorError):
    """The supervisor has not been started, is stopping, or has ended: nothing was done."""


class MaxRestartsExceeded(SupervisorError):
    """The supervisor gave up: more than `max_restarts` restarts were needed within `max_seconds`.

    Attributes:
        supervisor: name of the supervisor that gave up.
        child_id: the child whose end was one too many.
        restarts: how many restarts the window holds, that one included; always more than `max_restarts`.
        max_restarts: how many were allowed.
        max_seconds: the window in seconds.

    `__cause__` is the last exception of that child, None if it ended without one.
    """

    def __init__(
        self, *, supervisor: str, child_id: Hashable, restarts: int, max_restarts: int, max_seconds: float
    ) -> None:
        super().__init__(
            f"supervisor {supervisor!r} gave up: child {child_id!r} ended and would have been restart {restarts} "
            f"within {max_seconds:g} s, of which {max_restarts} are allowed"
        )
        self.supervisor = supervisor
        self.child_id = child_id
        self.restarts = restarts
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds


class ExitShutdown(SupervisorError):
    """Raised by a child that ends of its own will, in good order, before its work is done (OTP: `exit(shutdown)`).

    A transient child that ends so is not restarted, a permanent one is.
    """
