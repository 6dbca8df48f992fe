"""However a child of another replica ends, its parent learns it, and what follows from its end happens once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from crossing import Crossing

from rotor_actors import Context, workflow
from rotor_actors.errors import NonRetriableError, WorkflowCancelledError, WorkflowFailedError
from rotor_actors.observing import Observer
from rotor_actors.records import Fact, RunChanged, RunsCancelled
from rotor_actors.workflows import EndedRun

pytestmark = pytest.mark.asyncio


async def take_back(what: str, result: str) -> None: ...


async def told(ctx: Context, ended: EndedRun[str]) -> None: ...


@workflow(id="child", on_failure=told, on_cancel=told, timeout="30m")
async def child(ctx: Context, name: str) -> str:
    async def act(what: str) -> str:
        return what

    await ctx.step.run("act", act, name, undo=take_back)
    if name == "slow":
        await ctx.step.sleep("too long", "1h")
    await ctx.step.sleep("a while", "1m")
    if name == "bad":
        raise NonRetriableError("bad luck")
    if name == "itself":
        await ctx.cancel("enough of it")
    return f"{name} {ctx.headers.get('who')} {ctx.depth}"


@workflow(id="parent")
async def parent(ctx: Context, name: str) -> str:
    try:
        return (
            await ctx.step.invoke(
                "down", workflow=child, data=name, timeout="2h", headers={"who": "me"}, placement="any"
            )
        ).result
    except WorkflowFailedError as error:
        return f"failed: {error.error.type.rpartition(chr(46))[2]}"
    except WorkflowCancelledError as error:
        return f"cancelled: {error.reason}"


@workflow(id="deeper")
async def deeper(ctx: Context, name: str) -> str:
    try:
        return (await ctx.step.invoke("down", workflow=deeper, data=name, timeout="2h", placement="any")).result
    except Exception as error:
        return str(error)


class Ends(Observer):
    def __init__(self) -> None:
        self.of: Counter[int] = Counter()

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        for fact in facts:
            if isinstance(fact, RunsCancelled):
                self.of.update(fact.ns)
            elif isinstance(fact, RunChanged) and fact.run.ended_at is not None:
                self.of[fact.run.n] += 1


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("good", "good me 1"),
        ("bad", "failed: NonRetriableError"),
        ("slow", "failed: RunTimeoutError"),
        ("itself", "cancelled: enough of it"),
    ],
)
async def test_each_end_reaches_the_parent_and_its_handlers_run_once(name: str, outcome: str) -> None:
    ends = Ends()
    async with Crossing(parent, child, observers=[ends]) as fleet:
        a, b = await fleet.open(), await fleet.open()
        fleet.claims(a, "parent")
        fleet.claims(b, "child", "child.on_failure", "child.on_cancel", "child.undo")
        handle = await a.start(parent, name)
        assert await fleet.clock.until(handle.result()) == outcome
        for _ in range(4):
            await fleet.clock.advance("2s")
        run_id = fleet.child(handle.run_id, "down").run_id
        followed = [row.workflow_id for row in fleet.rows() if row.parent_run_id == run_id]
        handler = {"good": [], "itself": ["child.on_cancel"]}.get(name, ["child.on_failure"])
        assert sorted(followed) == ([*handler, "child.undo"] if handler else [])
        assert fleet.living == set()
        assert fleet.database.office.letters == {}
        assert ends.of == {row.n: 1 for row in fleet.rows()}, "each end is shown once, by whoever recorded it"


async def test_the_limit_of_depth_holds_over_borders_and_says_what_is_known_of_the_chain() -> None:
    async with Crossing(deeper, max_depth=4) as fleet:
        a, b = await fleet.open(), await fleet.open()
        fleet.spill(a, "deeper")
        fleet.spill(b, "deeper")
        fleet.claims(b, "deeper")
        said = await fleet.clock.until(a.execute(deeper, "x", run_id="top"))
        assert "at depth 5, the limit is 4" in said
        assert "→ deeper → deeper" in said
        assert max(row.depth for row in fleet.rows()) == 4


async def test_a_parent_waits_for_a_child_elsewhere_and_says_so() -> None:
    async with Crossing(parent, child) as fleet:
        a, b = await fleet.open(), await fleet.open()
        fleet.spill(a, "child")
        fleet.claims(b, "child")
        await a.start(parent, "good", run_id="top")
        await fleet.clock.advance("10s")
        below = fleet.child("top", "down").run_id
        for runtime in (a, b):
            assert "waits for" in await runtime.why("top")
            tree = await runtime.tree("top")
            assert [each.run.run_id for each in tree.children] == [below]
        assert below in str(await a.tree(below))
        assert (await a.info("top")).waiting_for
        assert (await a.run(below).info()).status == "running"
