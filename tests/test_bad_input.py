"""What callers hand in wrongly is refused where it is handed in, by name, with what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from kit import World

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import WorkflowFailedError


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


async def plain(name: str) -> str:
    return name


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"payload_limit": 0}, ValueError, "payload_limit must be a number of at least 1, got 0"),
        ({"payload_limit": "4MB"}, ValueError, "payload_limit must be a number of at least 1, got '4MB'"),
        ({"max_recoveries": 0}, ValueError, "max_recoveries must be a number of at least 1, got 0"),
        ({"max_depth": True}, ValueError, "max_depth must be a number of at least 1, or None for no limit"),
        ({"store": 5}, TypeError, "store: expected a file, .* or a Store; got 5"),
        ({"workflows": greet}, TypeError, r"write workflows=\[…\]"),
        ({"workflows": [plain]}, TypeError, "functions decorated with @workflow, got <function plain"),
    ],
)
def test_a_runtime_refuses_options_that_make_no_sense_when_it_is_made(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    chosen: dict[str, Any] = {"store": ":memory:", **options}
    with pytest.raises(error, match=said):
        Runtime(**chosen)


@pytest.mark.asyncio
async def test_a_status_that_is_none_is_answered_with_those_that_are() -> None:
    async with World() as world:
        with pytest.raises(ValueError, match=r"status must be one or several of 'queued', 'running'.*got 'done'"):
            await world.runtime.runs(status="done")


@pytest.mark.asyncio
@pytest.mark.parametrize("headers", ["ab", [("a", "b")], {"a": 1}])
async def test_headers_that_are_no_mapping_of_strings_are_refused(headers: Any) -> None:
    async with World() as world:
        with pytest.raises(TypeError, match="headers are"):
            await world.runtime.start(greet, "you", headers=headers)


@pytest.mark.asyncio
async def test_a_workflow_that_invokes_itself_without_end_fails_at_once_at_every_level() -> None:
    """Each level would be tried again three times, after seconds, and would get the same error each time."""

    @workflow(id="endless", retries=3)
    async def endless(ctx: Context, level: int) -> int:
        return (await ctx.step.invoke("next", workflow=endless, data=level + 1, timeout="24h")).result

    async with World(endless, max_depth=20) as world:
        began = world.clock.now()
        handle = await world.runtime.start(endless, 0)
        await world.settle()
        with pytest.raises(WorkflowFailedError) as failed:
            await handle.result()
        assert failed.value.error.is_final
        assert "InvokeDepthError" in failed.value.error.message
        assert world.clock.now() == began
        runs = await world.runtime.runs(root=handle.run_id)
        assert [run.attempt for run in runs] == [1] * 21


@pytest.mark.asyncio
async def test_a_child_that_fails_of_the_world_does_not_keep_its_parent_from_trying_again() -> None:
    @workflow(id="child", retries=0)
    async def child(ctx: Context) -> None:
        raise OSError("no route to host")

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> int:
        if ctx.attempt == 2:
            return ctx.attempt
        return (await ctx.step.invoke("child", workflow=child, data=None, timeout="1h")).result or 0

    async with World(parent) as world:
        assert await world.execute(parent) == 2
