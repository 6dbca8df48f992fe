"""Who waits, and why, is to be seen; and a long queue costs each end the same."""

from __future__ import annotations

import pytest
from flow_kit import Watch
from kit import World

from rotor_actors import Context, FlowControl, Workflow, workflow
from rotor_actors.flow.queue import WaitingLine

pytestmark = pytest.mark.asyncio


def worker(watch: Watch, flow_control: FlowControl, **options: object) -> Workflow[str, None]:
    @workflow(id="worker", flow_control=flow_control, **options)  # type: ignore[arg-type]
    async def work(ctx: Context, name: str) -> None:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)

    return work


async def test_those_who_wait_are_listed_in_the_order_in_which_they_begin_with_the_reason() -> None:
    work = worker(Watch(), FlowControl("k", parallelism=1))
    async with World(work) as world:
        handles = [await world.runtime.start(work, f"{n}") for n in range(4)]
        waiting = world.runtime.waiting("k")
        assert [each.run_id for each in waiting] == [handle.run_id for handle in handles[1:]]
        assert [each.position for each in waiting] == [1, 2, 3]
        assert {(each.workflow_id, each.key, each.reason) for each in waiting} == {
            ("worker", "k", "key 'k': 1 of 1 running")
        }
        assert len(world.runtime.waiting("k", limit=2)) == 2
        assert world.runtime.waiting("other") == []
        info = await world.runtime.info(handles[3].run_id)
        assert info.waiting_for == "flow control: key 'k': 1 of 1 running"
        assert "is queued since" in await world.runtime.why(handles[3].run_id)


async def test_a_key_shows_its_limits_who_runs_who_waits_and_when_its_rate_opens() -> None:
    work = worker(Watch(), FlowControl("data", rate=1, period="1m"))
    async with World(work) as world:
        await world.runtime.start(work, "a")
        await world.runtime.start(work, "a")
        await world.runtime.pause_key("unknown yet")
        paused, key = world.runtime.flow_keys()
        assert (key.name, key.rate, key.period, key.parallelism) == ("worker:data=a", 1, 60.0, None)
        assert (key.running, key.waiting, key.is_paused) == (1, 1, False)
        assert key.opens_at is not None
        assert key.opens_at.timestamp() == world.clock.now() + 60
        assert (paused.name, paused.is_paused) == ("unknown yet", True)
        reason = world.runtime.waiting()[0].reason
        assert reason == "key 'worker:data=a': 1 began within 1m, the next may in 1m"
        await world.clock.advance("1h")
        assert [key.name for key in world.runtime.flow_keys()] == ["unknown yet"], "a key that is idle is forgotten"


async def test_a_key_that_is_no_text_is_refused() -> None:
    async with World() as world:
        for key in ("", 7, "k" * 603):
            with pytest.raises(ValueError, match="key must be"):
                await world.runtime.pause_key(key)  # type: ignore[arg-type]


async def test_each_end_costs_the_same_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are looks into the heaps, per run, with few and with many waiting; the clock is not."""
    looks = 0
    first = WaitingLine.first

    def counted(self: WaitingLine) -> object:
        nonlocal looks
        looks += 1
        return first(self)

    monkeypatch.setattr(WaitingLine, "first", counted)
    costs: list[float] = []
    for queued in (20, 400):
        watch = Watch()
        work = worker(watch, FlowControl("k", parallelism=1))
        async with World(work) as world:
            for n in range(queued):
                await world.runtime.start(work, f"{n}")
            looks, before = 0, len(watch.began)
            await world.clock.advance("100s")
            costs.append(looks / (len(watch.began) - before))
    assert costs[1] <= costs[0] * 1.2, costs
