"""A crowd: fan-outs over all replicas, and what belongs to all of them: lines, events, signals, singletons, chosen ids."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from rotor_actors.context import Context
from rotor_actors.define import workflow
from rotor_actors.errors import (
    AnswerTimeoutError,
    RunNotFoundError,
    SignalNotFoundError,
    WorkflowCancelledError,
    WorkflowTimeoutError,
)
from rotor_actors.flow.options import FlowControl, Idempotency, Singleton
from rotor_actors.runtime import Runtime
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.tape import Tape
from rotor_actors.simulation.trial import Executed, Executing, Place
from rotor_actors.workflows import Event, Workflow

LIMIT = 2
SCENES = ("fan", "line", "news", "orders", "signals", "once", "alone", "chosen", "late", "nap")
_SIGNALS, _NEWS = 3, 2
_OFTEN = 200


class Crowd:
    """Some scenes, drawn, at the same time.

    Attributes:
        workflows: those of all scenes.
        executions: how often each step was executed, over all lives.
    """

    def __init__(self, place: Place, tape: Tape, width: int, scenes: tuple[str, ...] = SCENES) -> None:
        self._scenes = scenes
        self._place = place
        self._tape = tape
        self._width = width
        self.executions: Counter[str] = Counter()
        self.workflows: dict[str, Workflow[Any, Any]] = {each.id: each for each in self._make()}

    # What runs do

    async def _act(self, ctx: Context, step_id: str, takes: float = 0.0) -> str:
        """A step that the world sees."""
        name = f"{ctx.run_id}/{step_id}"
        life = self._place.incarnation

        async def act() -> str:
            self.executions[name] += 1
            execution, place, error = self.executions[name], self._place, "gone"
            place.record(Executing(place.now(), life, ctx.run_id, name, step_id, execution, ctx.attempt, 0))
            try:
                await asyncio.sleep(takes)
                error = ""
            except asyncio.CancelledError:
                error = "CancelledError"
                raise
            finally:
                if error != "gone":
                    place.record(Executed(place.now(), life, ctx.run_id, name, execution, error))
            return f"{name}#{execution}"

        return await ctx.step.run(step_id, act)

    def _make(self) -> list[Workflow[Any, Any]]:
        act = self._act

        @workflow(id="leaf")
        async def leaf(ctx: Context, takes: float) -> str:
            return await act(ctx, "act", takes)

        @workflow(id="napping")
        async def napping(ctx: Context, seconds: float) -> str:
            await ctx.step.sleep("nap", seconds)
            return await act(ctx, "act")

        @workflow(id="branch")
        async def branch(ctx: Context, takes: float) -> str:
            """It ends before its child, which it does not own: who cancels the root cancels that, too."""
            try:
                await ctx.step.invoke("left", workflow=napping, data=takes * 20, timeout=0.05, placement="any",
                                      on_parent_close="abandon")  # fmt: skip
            except WorkflowTimeoutError:
                pass
            return await act(ctx, "act", takes)

        @workflow(id="fan")
        async def fan(ctx: Context, takes: list[float]) -> int:
            ends = [
                ctx.step.invoke(
                    f"child{n}", workflow=branch if n % 3 == 2 else leaf, data=each, timeout="20h", placement="any"
                )
                for n, each in enumerate(takes)
            ]
            return len(await asyncio.gather(*ends))

        @workflow(id="lined", flow_control=FlowControl("line", parallelism=LIMIT))
        async def lined(ctx: Context, takes: float) -> str:
            await act(ctx, "first", takes)
            return await act(ctx, "second")

        @workflow(id="queue")
        async def queue(ctx: Context, takes: list[float]) -> int:
            ends = [
                ctx.step.invoke(f"child{n}", workflow=lined, data=each, timeout="20h", placement="any")
                for n, each in enumerate(takes)
            ]
            return len(await asyncio.gather(*ends))

        @workflow(id="listener")
        async def listener(ctx: Context, name: str) -> list[str]:
            heard: list[str] = []
            for n in range(_NEWS):
                event = await ctx.step.wait_for_event(
                    f"news{n}", event="news", timeout="20h", where="data.to == own.id"
                )
                heard.append("" if event is None else str(event.data["k"]))
            return heard

        @workflow(id="order", on="ordered")
        async def order(ctx: Context, data: dict[str, Any]) -> str:
            return await act(ctx, "act")

        @workflow(id="signalled")
        async def signalled(ctx: Context, name: str) -> list[str]:
            return [
                await ctx.step.wait_for_signal(f"wait{n}", signal=f"{name}:{n}", timeout="20h", returns=str)
                for n in range(_SIGNALS)
            ]

        @workflow(id="once", idempotency=Idempotency("data"))
        async def once(ctx: Context, key: str) -> str:
            return await act(ctx, "act", 0.1)

        @workflow(id="alone", singleton=Singleton())
        async def alone(ctx: Context, takes: float) -> str:
            return await act(ctx, "act", takes)

        @workflow(id="late")
        async def late(ctx: Context, seconds: float) -> str:
            try:
                await ctx.step.invoke("child", workflow=napping, data=seconds, timeout=0.2, placement="any")
            except WorkflowTimeoutError:
                return await act(ctx, "act")
            return "in time"

        return [leaf, napping, branch, fan, lined, queue, listener, order, signalled, once, alone, late]

    # Callers

    async def run(self, runtime: Runtime) -> None:
        """Play the scenes, until each caller was answered."""
        tape = self._tape
        names = [tape.pick(self._scenes) for _ in range(1 + tape.choose(3))]
        await asyncio.gather(*(self._play(runtime, name, f"{name}{n}") for n, name in enumerate(names)))

    async def _play(self, runtime: Runtime, kind: str, name: str) -> None:
        await asyncio.sleep(self._tape.between(0.0, 1.0))
        scene: Callable[[Runtime, str], Awaitable[None]] = getattr(self, f"_{kind}")
        await scene(runtime, name)

    def _takes(self) -> list[float]:
        tape = self._tape
        return [tape.between(0.0, 0.4) for _ in range(self._width + tape.choose(2 * self._width))]

    async def _start(self, runtime: Runtime, workflow_id: str, data: Any, run_id: str | None = None) -> str:
        """Gives the id. Who is not answered in time asks again."""
        while True:
            try:
                return (await runtime.start(self.workflows[workflow_id], data, run_id=run_id)).run_id
            except AnswerTimeoutError:
                continue

    async def _fan(self, runtime: Runtime, name: str) -> None:
        takes = self._takes()
        await self._start(runtime, "fan", takes, name)
        cancels = self._tape.chance(0.6)
        if cancels:
            await asyncio.sleep(self._tape.between(0.0, 1.5))
            await runtime.cancel(name, "the caller wants it")
        try:
            found = await runtime.run(name).result()
        except WorkflowCancelledError:
            _require(cancels, "25 cancelled for a reason", f"{name} is cancelled")
        else:
            _require(
                found == len(takes), "43 it ends as the model says", f"{name} had {len(takes)} children, and {found}"
            )

    async def _line(self, runtime: Runtime, name: str) -> None:
        takes = self._takes()
        half = len(takes) // 2
        starts = [self._start(runtime, "lined", each) for each in takes[:half]]
        ids = await asyncio.gather(self._start(runtime, "queue", takes[half:], name), *starts)
        await asyncio.gather(*(runtime.run(each).result() for each in ids))

    async def _news(self, runtime: Runtime, name: str) -> None:
        """Each event is sent by two at once, and heard once."""
        await self._start(runtime, "listener", name, name)
        for k in range(_OFTEN):
            await asyncio.sleep(self._tape.between(0.05, 3.0))
            event = Event("news", {"to": name, "k": k}, id=f"{name}-{k}")
            await asyncio.gather(self._send(runtime, event), self._send(runtime, event))
            if (await runtime.info(name)).ended_at is not None:
                break
        heard = await runtime.run(name).result()
        _require(len(set(heard)) == _NEWS, "12 an event is received once", f"{name} heard {heard}")

    async def _send(self, runtime: Runtime, event: Event) -> list[str]:
        while True:
            try:
                return await runtime.send(event)
            except AnswerTimeoutError:
                continue

    async def _orders(self, runtime: Runtime, name: str) -> None:
        """An event starts one run, whoever sends it, and however often."""
        event = Event("ordered", {"name": name}, id=name)
        sent = await asyncio.gather(*(self._send(runtime, event) for _ in range(3)))
        _require(len({each for ids in sent for each in ids}) == 1, "8 one run for an id", f"{name} has started {sent}")
        await runtime.run(sent[0][0]).result()

    async def _signals(self, runtime: Runtime, name: str) -> None:
        await self._start(runtime, "signalled", name, name)
        for n in range(_SIGNALS):
            for _ in range(_OFTEN):
                try:
                    await runtime.signal(f"{name}:{n}", str(n))
                    break
                except (SignalNotFoundError, AnswerTimeoutError):  # nobody waits yet, or it has arrived
                    await asyncio.sleep(0.5)
                    if await self._has_passed(runtime, name, n):
                        break
        found = await runtime.run(name).result()
        expected = [str(n) for n in range(_SIGNALS)]
        _require(found == expected, "12 a signal is received once", f"{name} received {found}")

    async def _has_passed(self, runtime: Runtime, name: str, n: int) -> bool:
        try:
            steps = await runtime.steps(name)
        except RunNotFoundError:
            return False
        return any(step.step_id == f"wait{n}" and str(step.status) == "completed" for step in steps)

    async def _once(self, runtime: Runtime, name: str) -> None:
        ids = await asyncio.gather(*(self._start(runtime, "once", name) for _ in range(3)))
        _require(len(set(ids)) == 1, "8 one run for an id", f"the same key has led to {ids}")
        await runtime.run(ids[0]).result()

    async def _alone(self, runtime: Runtime, name: str) -> None:
        """At most one at a time: see the judge."""
        for _ in range(2):
            ids = await asyncio.gather(*(self._start(runtime, "alone", self._tape.between(0.0, 1.0)) for _ in range(3)))
            await asyncio.gather(*(runtime.run(each).result() for each in ids))

    async def _chosen(self, runtime: Runtime, name: str) -> None:
        ids = await asyncio.gather(*(self._start(runtime, "leaf", 0.2, name) for _ in range(3)))
        _require(set(ids) == {name}, "8 one run for an id", f"{name} is {ids}")
        await runtime.run(name).result()

    async def _late(self, runtime: Runtime, name: str) -> None:
        """What a parent has timed out on outlives it, whoever owns it by then."""
        seconds = [self._tape.between(0.0, 12.0) for _ in range(self._width)]
        ids = await asyncio.gather(
            *(self._start(runtime, "late", each, f"{name}.{n}") for n, each in enumerate(seconds))
        )
        await asyncio.gather(*(runtime.run(each).result() for each in ids))

    async def _nap(self, runtime: Runtime, name: str) -> None:
        """Nobody waits for them: they are parked."""
        for n in range(2):
            await self._start(runtime, "napping", self._tape.between(62.0, 75.0), f"{name}.{n}")


def _require(holds: bool, invariant: str, message: str) -> None:
    if not holds:
        raise InvariantError(invariant, message)
