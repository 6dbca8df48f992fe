"""What the simulator raises: about the code under test, about the engine, about itself."""

from __future__ import annotations

from rotor_actors.errors import RotorError


class SimulationError(RotorError):
    """Base of every error of the simulator."""


class RealWorldError(SimulationError):
    """Something inside a universe reached for the real world: a socket, a thread, a process, a clock, a sleep.

    It is raised at the call site. The message says what to use instead.
    """


class DeadlockError(SimulationError):
    """Nothing can happen any more, and the test has not ended. The message names who waits for what."""


class LivelockError(SimulationError):
    """Things happen without end: more callbacks were run than a universe may have."""


class InvariantError(SimulationError, AssertionError):
    """Something that must always hold does not.

    Attributes:
        invariant: its name.
    """

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class FaultNeverFiredError(SimulationError, AssertionError):
    """A fault was asked for, and in no universe did it happen: the test has not tested what it says."""


class NeverHeldError(SimulationError, AssertionError):
    """A `sim.sometimes(…)` held in no universe."""


class UniverseFailed(AssertionError):
    """A simulated test failed. The message is the whole report; the cause is what was raised in the universe."""
