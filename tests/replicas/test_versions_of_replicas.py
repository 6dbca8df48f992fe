"""A run stays with replicas that can run its version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fleet import Fleet

from rotor_actors import CheckReport, Context, Workflow, check, check_runs, workflow
from rotor_actors.errors import WorkflowDefinitionError
from rotor_actors.stores.shared_memory import SharedMemoryView

pytestmark = pytest.mark.asyncio


def _of(version: str | None, takes_over: Sequence[str] = ()) -> Workflow[Any, Any]:
    @workflow(id="greeting", version=version, takes_over=takes_over)
    async def greeting(ctx: Context) -> str:
        async def done() -> str:
            return f"by {version}"

        await ctx.step.sleep("a while", "30s")
        return await ctx.step.run("greet", done)

    return greeting


async def test_a_run_is_gone_on_with_by_its_own_version_only() -> None:
    old, new = _of("1"), _of("2")
    async with Fleet() as fleet:
        first, second = await fleet.open(old), await fleet.open(new)
        begun = await first.start(old)
        await fleet.clock.advance("1s")
        await fleet.close(first)
        newer = await second.start(new)
        assert await fleet.clock.until(newer.result()) == "by 2"
        assert fleet.owner_of(begun.run_id) is None
        [left] = [each for each in fleet.database.unowned() if each.workflow_id == "greeting"]
        assert (left.version, left.unowned, left.is_declared) == ("1", 1, False)
        third = await fleet.open(old)
        assert await fleet.clock.until(third.run(begun.run_id).result()) == "by 1"


async def test_a_version_goes_on_with_those_that_it_takes_over() -> None:
    old, new = _of("1"), _of("2", takes_over=("1",))
    async with Fleet() as fleet:
        first, second = await fleet.open(old), await fleet.open(new)
        begun = await first.start(old)
        await fleet.clock.advance("1s")
        await fleet.close(first)
        assert await fleet.clock.until(second.run(begun.run_id).result()) == "by 2"


@pytest.mark.parametrize(("before", "after"), [(None, "2"), ("1", None)])
async def test_without_a_version_anybody_goes_on(before: str | None, after: str | None) -> None:
    old, new = _of(before), _of(after)
    async with Fleet() as fleet:
        first, second = await fleet.open(old), await fleet.open(new)
        begun = await first.start(old)
        await fleet.clock.advance("1s")
        await fleet.close(first)
        assert await fleet.clock.until(second.run(begun.run_id).result()) == f"by {after}"


async def test_a_run_that_nobody_can_run_can_be_cancelled() -> None:
    old, new = _of("1"), _of("2")
    async with Fleet() as fleet:
        first, second = await fleet.open(old), await fleet.open(new)
        begun = await first.start(old)
        await fleet.clock.advance("1s")
        await fleet.close(first)
        report = await fleet.clock.until(second.cancel(begun.run_id))
        assert report.cancelled == [begun.run_id]


async def test_a_check_counts_the_runs_of_versions_that_the_code_does_not_take_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _of("1")
    async with Fleet() as fleet:
        first = await fleet.open(old)
        for _ in range(2):
            await first.start(old)
        await fleet.clock.advance("1s")
        await fleet.close(first)
        view = SharedMemoryView(fleet.database)
        left_alone = await check_runs(view, [_of("2")])
        assert (left_alone.pinned, left_alone.checked, left_alone.is_clean) == ({"greeting": {"1": 2}}, 0, False)
        for knows in (old, _of("2", takes_over=("1",)), _of(None)):
            report = await check_runs(view, [knows])
            assert (report.pinned, report.checked, report.is_clean) == ({}, 2, True)

    async def checked(*_: object) -> CheckReport:
        return left_alone

    monkeypatch.setattr(check, "check_runs", checked)
    monkeypatch.setattr(check, "workflows_of", str.split)
    assert await asyncio.to_thread(check.main, ["app", "--store", "postgresql://"]) == 1
    assert "2 runs of workflow 'greeting' in version '1'" in (said := capsys.readouterr().out)
    assert "without takes_over=('1',) they wait" in said


async def test_what_cannot_be_taken_over_is_refused_by_name() -> None:
    with pytest.raises(WorkflowDefinitionError, match="needs a version= of its own"):
        _of(None, takes_over=("1",))
    with pytest.raises(WorkflowDefinitionError, match="takes the names of older versions"):
        _of("2", takes_over="1")
