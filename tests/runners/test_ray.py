"""Steps on a Ray of this machine. Where Ray is not installed, only that is tested: it is large, and in no extra of ours
but `ray`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import heavy_bodies as bodies
import pytest

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import StepRunnerError, StepTimeoutError, WorkerLostError
from rotor_actors.runners.ray import RayRunner

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'rotor-actors[ray]'")
pytestmark = [pytest.mark.asyncio, pytest.mark.filterwarnings("default")]
AT_ONCE = RetryPolicy(3, initial=0.001, jitter=False)
LOCAL = {
    "num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "error",
    "runtime_env": {"env_vars": {"PYTHONPATH": os.path.dirname(bodies.__file__)}},
}  # fmt: skip


@asynccontextmanager
async def opened(store: str | Path = ":memory:") -> AsyncGenerator[Runtime]:
    runners = {"ray": RayRunner(init=LOCAL, num_cpus=1)}
    async with Runtime(store, step_runners=runners, drain_timeout=0) as runtime:
        yield runtime


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _is_gone(pid: int) -> bool:
    return not bodies.is_alive(pid)


def words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
async def test_without_ray_its_runner_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'rotor-actors\[ray\]'"):
        RayRunner()


@needs_ray
async def test_retries_of_rays_own_are_refused() -> None:
    with pytest.raises(TypeError, match="retries are the step's"):
        RayRunner(max_retries=3)


@needs_ray
async def test_a_step_is_executed_by_a_ray_worker_and_raises_what_was_raised_there() -> None:
    @workflow(id="there", retries=0)
    async def there(ctx: Context) -> list[int]:
        pid = await ctx.step.run("pid", bodies.whoami, runner="ray")
        with pytest.raises(bodies.PrivateError) as raised:
            await ctx.step.run("fail", bodies.fail, "broken", runner="ray")
        with pytest.raises(StepRunnerError, match="is a lambda"):
            await ctx.step.run("lambda", lambda: 1, runner="ray")
        return [pid, raised.value.number, await ctx.step.run("async", bodies.doubled_later, 21, runner="ray")]

    async with opened() as runtime:
        pid, number, doubled = await runtime.execute(there)
    assert pid != os.getpid()
    assert (number, doubled) == (7, 42)


@needs_ray
async def test_a_ray_worker_that_dies_is_a_named_error_and_retries_heed_it(tmp_path: Path) -> None:
    @workflow(id="dying", retries=0)
    async def dying(ctx: Context) -> str:
        with pytest.raises(WorkerLostError, match="Ray lost its worker"):
            await ctx.step.run("leave", bodies.leave, 5, runner="ray")
        return await ctx.step.run("again", bodies.die_once, str(tmp_path / "pids"), runner="ray", retries=AT_ONCE)

    async with opened() as runtime:
        assert await runtime.execute(dying, run_id="d") == "done"
        assert [step.attempts for step in await runtime.steps("d")] == [1, 2]


@needs_ray
async def test_a_step_on_ray_is_ended_by_force_when_it_times_out_or_its_run_is_cancelled(tmp_path: Path) -> None:
    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> None:
        with pytest.raises(StepTimeoutError):
            await ctx.step.run("late", bodies.note_and_hang, str(tmp_path / "late"), runner="ray", timeout="3s")
        await ctx.step.run("hang", bodies.note_and_hang, str(tmp_path / "hang"), runner="ray")

    async with opened() as runtime:
        handle = await runtime.start(slow)
        await until(lambda: words(tmp_path / "hang"))
        report = await handle.cancel()
        assert (report.interrupted_steps, report.stuck) == (1, [])
        for name in ("late", "hang"):
            (pid,) = map(int, words(tmp_path / name))
            await until(partial(_is_gone, pid))


@needs_ray
async def test_what_ray_goes_on_with_after_the_runtime_has_ended_is_nobodys(tmp_path: Path) -> None:
    """The next runtime executes the step again; only that one's outcome is recorded."""

    @workflow(id="twice")
    async def twice(ctx: Context) -> str:
        return await ctx.step.run("hang once", bodies.hang_once, str(tmp_path / "pids"), runner="ray")

    async with opened(tmp_path / "r.db") as runtime:
        await runtime.start(twice, run_id="t")
        await until(lambda: words(tmp_path / "pids"))
    async with opened(tmp_path / "r.db") as runtime:
        assert await runtime.execute(twice, run_id="t") == "done"
    assert len(words(tmp_path / "pids")) == 2
