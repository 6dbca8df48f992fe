"""A runner for tests: a worker thread of this process, and the same passage through pickle as on the way to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread

from rotor_actors.runners.work import opened, packed, perform
from rotor_actors.step_runner import StepCall, check_importable

__all__ = ["InProcessRunner"]


class InProcessRunner:
    """Executes steps in threads of this process: for tests, in place of the real runner of that name.

    It refuses what cannot go to another process, and so finds lambdas and open files without starting one. It cannot
    end a call by force: one that is cancelled runs on, and nothing it does is recorded. In a simulated universe it
    stands in for every runner, and is deterministic.

    Example:
        >>> import asyncio, math
        >>> from rotor_actors import Context, Runtime, workflow
        >>> @workflow(id="root")
        ... async def root(ctx: Context, number: int) -> int:
        ...     return await ctx.step.run("root", math.isqrt, number, runner="cpu")
        >>> async def main() -> int:
        ...     async with Runtime(":memory:", step_runners={"cpu": InProcessRunner()}) as runtime:
        ...         return await runtime.execute(root, 49)
        >>> asyncio.run(main())
        7
    """

    async def execute(self, call: StepCall, began: Callable[[], None]) -> Any:
        """See `StepRunner`."""
        check_importable(call)
        request = packed(call)
        began()
        return opened(await anyio.to_thread.run_sync(perform, request, abandon_on_cancel=True), call)

    async def close(self) -> None:
        """There is nothing to let go of."""
