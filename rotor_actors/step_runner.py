"""The step runner port: where the body of a step is executed, if not in this process's loop or one of its threads.

It is asked for by name (`step.run(…, runner="cpu")`). The executor port (`executor.py`) is another: it is where the
store's blocking calls are made.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from rotor_actors.errors import StepRunnerError

__all__ = ["StepCall", "StepRunner", "check_importable", "checked_runners"]


class StepCall(msgspec.Struct, frozen=True):
    """One execution of a step's body.

    Attributes:
        fn: the step's function, and args: its arguments.
        where: the run and the step, for messages.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    where: str


class StepRunner(Protocol):
    """Executes bodies of steps elsewhere: in other processes, on other machines. A runtime closes those it was given.

    What a call gives goes through the step's codec and into the journal by the runtime's own commit, as that of any
    step. So a runner need remember nothing, and may execute nothing on its own: it is asked again where it is wanted.
    """

    async def execute(self, call: StepCall, began: Callable[[], None]) -> Any:
        """Call the function there, and give what it returns or raise what it raises.

        Args:
            call: what to execute.
            began: to be called when the body begins, in the loop's thread: the step's timeout counts from then on,
                so that waiting for a free worker is not the step's fault.

        Raises:
            StepRunnerError: it cannot be executed there, whenever it is tried; nothing was submitted.
            WorkerLostError: who executed it has died, and it is not known how far it came.

        Cancelled (the run was, or the step has timed out), it ends the call by force, and ends when that is done.
        """
        ...

    async def close(self) -> None:
        """End what is still executed, and let go of all that is held. Closing twice is fine."""
        ...


def check_importable(call: StepCall) -> None:
    """Raise StepRunnerError where another process could not import the function by its name."""
    fn: Any = call.fn
    while isinstance(fn, partial):
        fn = fn.func
    fault = _fault(fn)
    if fault is not None:
        raise StepRunnerError(
            f"{call.where}: {fn!r} {fault}, so that no other process can import it; define it at the top of a module, "
            f"and give it what it needs as arguments"
        )


def _fault(fn: Any) -> str | None:
    name = str(getattr(fn, "__qualname__", ""))
    if name.endswith("<lambda>"):
        return "is a lambda"
    if "<locals>" in name:
        return "is defined inside another function"
    if getattr(fn, "__module__", None) == "__main__" and getattr(sys.modules["__main__"], "__file__", None) is None:
        return "is defined at a prompt"
    if getattr(fn, "__self__", None) is not None:
        return None  # a method goes with its object, which is pickled with the arguments
    try:
        pickle.dumps(fn)
    except Exception as error:
        return f"cannot be found by its name ({error})"
    return None


def checked_runners(runners: Mapping[str, StepRunner] | None) -> dict[str, StepRunner]:
    """`Runtime(step_runners=…)`. Raises TypeError where it names no runners."""
    if runners is None:
        return {}
    if not isinstance(runners, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"step_runners must map names to runners, e.g. {{'cpu': ProcessPoolRunner()}}; got {runners!r}")
    for name, runner in runners.items():
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"step_runners: a runner's name must be a non-empty string, e.g. 'cpu'; got {name!r}")
        if not callable(getattr(runner, "execute", None)) or not callable(getattr(runner, "close", None)):
            raise TypeError(
                f"step_runners: {name!r} must be a StepRunner, such as ProcessPoolRunner(max_workers=4); got {runner!r}"
            )
    return dict(runners)
