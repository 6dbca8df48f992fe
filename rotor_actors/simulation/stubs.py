"""Replacements for step functions and for child workflows, and the count of what was executed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import msgspec

from rotor_actors.context import Context
from rotor_actors.durations import Duration, seconds
from rotor_actors.engine import Engine
from rotor_actors.messages import Pending
from rotor_actors.run import Run
from rotor_actors.step_specs import RunSpec
from rotor_actors.workflows import Workflow

Raised = BaseException | type[BaseException]


class Stub:
    """What stands in for a function or a workflow.

    Attributes:
        calls: the arguments of each call, in order; of a workflow its data.
    """

    def __init__(self, returns: object, raises: Raised | Sequence[Raised] | None, takes: float) -> None:
        self._returns = returns
        self._always = None if isinstance(raises, Sequence) else raises
        self._first = list(raises) if isinstance(raises, Sequence) else []
        self._takes = takes
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, *args: Any) -> Any:
        """In place of a step's function."""
        self.calls.append(args)
        error = self._next_error()
        if self._takes:
            await asyncio.sleep(self._takes)
        if error is not None:
            raise error
        return self._returns(*args) if callable(self._returns) else self._returns

    async def body(self, ctx: Context, data: object = None) -> Any:
        """In place of a workflow's body."""
        self.calls.append((data,))
        error = self._next_error()
        if self._takes:
            await ctx.step.sleep("stub", self._takes)
        if error is not None:
            raise error
        return self._returns(data) if callable(self._returns) else self._returns

    def _next_error(self) -> BaseException | None:
        error = self._first.pop(0) if self._first else self._always
        return error() if isinstance(error, type) else error


class Effect(msgspec.Struct):
    """One execution of a step's body."""

    run_id: str
    step_id: str
    fn: Callable[..., Any]


class Stubs:
    """Those of one universe."""

    def __init__(self) -> None:
        self._functions: list[tuple[Callable[..., Any], Stub]] = []
        self._workflows: dict[str, Stub] = {}
        self.unknown: dict[str, Workflow[Any, Any]] = {}
        self.effects: list[Effect] = []

    def add(
        self,
        target: Callable[..., Any] | Workflow[Any, Any] | str,
        returns: object,
        raises: Raised | Sequence[Raised] | None,
        takes: Duration,
    ) -> Stub:
        stub = Stub(returns, raises, seconds(takes, name="takes"))
        if isinstance(target, Workflow):
            self._workflows[target.id] = stub
        elif isinstance(target, str):
            self._workflows[target] = stub
            self.unknown[target] = Workflow(id=target, fn=stub.body)
        else:
            self._functions = [entry for entry in self._functions if entry[0] != target] + [(target, stub)]
        return stub

    def attach(self, engine: Engine) -> None:
        """Have bodies of stubbed workflows replaced."""
        maker = engine._body_maker  # pyright: ignore[reportPrivateUsage]
        engine._body_maker = partial(self._body_maker, maker)  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage]

    def _body_maker(self, maker: Callable[..., Any], run: Run, workflow: Workflow[Any, Any]) -> Callable[..., Any]:
        stub = self._workflows.get(workflow.id)
        if stub is None:
            return cast("Callable[..., Any]", maker(run, workflow))
        stand_in: Workflow[Any, Any] = Workflow(id=workflow.id, fn=stub.body)
        stand_in.takes_data = workflow.takes_data
        return cast("Callable[..., Any]", maker(run, stand_in))

    def begins(self, run: Run, pending: Pending) -> None:
        """A step's body is about to be executed: note it, and put the stub in its place."""
        spec = cast(RunSpec, pending.spec)
        stub = next((stub for fn, stub in self._functions if fn == spec.fn), None)
        called: object = getattr(spec.fn, "__self__", None)
        real = called.fn if isinstance(called, _Called) else spec.fn
        self.effects.append(Effect(run.row.run_id, pending.step_id, real))
        if stub is not None:
            pending.spec = msgspec.structs.replace(spec, fn=_Called(spec.fn, stub).call, runner=None)


class _Called:
    """A stub in the place of a function, which is found again when the step is executed again."""

    def __init__(self, fn: Callable[..., Any], stub: Stub) -> None:
        self.fn = fn
        self._stub = stub

    async def call(self, *args: Any) -> Any:
        return await self._stub.call(*args)
