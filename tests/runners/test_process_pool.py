"""Steps in other processes: what goes there and comes back, and what becomes of a worker that is not wanted or dies."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import heavy_bodies as bodies
import pytest

from rotor_actors import Context, RetryPolicy, Runtime, RunTree, workflow
from rotor_actors.errors import (
    PayloadError,
    StepFailedError,
    StepRunnerError,
    StepTimeoutError,
    WorkerLostError,
    WorkflowCancelledError,
)
from rotor_actors.runners import InProcessRunner, ProcessPoolRunner, StepCall
from rotor_actors.runners.worker import NotBegunError, Reply, Worker

pytestmark = pytest.mark.asyncio

AT_ONCE = RetryPolicy(3, initial=0.001, jitter=False)


@contextlib.asynccontextmanager
async def opened(pool: ProcessPoolRunner | None = None, store: str = ":memory:") -> AsyncGenerator[Runtime]:
    runners = {"cpu": pool or ProcessPoolRunner(max_workers=2)}
    async with Runtime(store, step_runners=runners, drain_timeout=0) as runtime:
        yield runtime


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def test_a_step_is_executed_in_another_process_and_memoized_as_any_other() -> None:
    @workflow(id="there")
    async def there(ctx: Context) -> list[object]:
        here = await ctx.step.run("here", bodies.whoami)
        pids = [await ctx.step.run(f"there {i}", bodies.whoami, runner="cpu") for i in range(2)]
        later = await ctx.step.run("async", bodies.doubled_later, 21, runner="cpu")
        said = await ctx.step.run("chatter", bodies.chatter, runner="cpu")
        return [here, pids, later, said]

    async with opened() as runtime:
        here, pids, later, said = await runtime.execute(there, run_id="there")
        steps = [step.step_id for step in await runtime.steps("there")]
    assert isinstance(pids, list)
    assert here == os.getpid() != pids[0]
    assert pids[0] == pids[1], "a worker is kept for the next step"
    assert (later, said) == (42, "said")
    assert steps == ["here", "there 0", "there 1", "async", "chatter"]


async def test_what_cannot_go_there_is_refused_by_name_before_anything_is_submitted() -> None:
    pool = ProcessPoolRunner(max_workers=1)
    seen: list[str] = []

    @workflow(id="refused", retries=0)
    async def refused(ctx: Context) -> None:
        def local() -> None: ...

        attempts: list[tuple[str, Callable[..., Any], tuple[Any, ...], str]] = [
            ("lambda", lambda: 1, (), "cpu"),
            ("local", local, (), "cpu"),
            ("argument", bodies.whoami, ((each for each in [1]),), "cpu"),
            ("unknown", bodies.whoami, (), "gpu"),
        ]
        for name, fn, args, runner in attempts:
            with pytest.raises(StepRunnerError) as raised:
                await ctx.step.run(name, fn, *args, runner=runner, retries=AT_ONCE)
            seen.append(str(raised.value))
        with pytest.raises(TypeError, match="runner must be a name from Runtime"):
            await ctx.step.run("no name", bodies.whoami, None, runner=pool)  # type: ignore[call-overload]

    async with opened(pool) as runtime:
        await runtime.execute(refused, run_id="r")
        steps = await runtime.steps("r")
    assert "run r of workflow 'refused', step 'lambda'" in seen[0]
    assert "is a lambda, so that no other process can import it; define it at the top of a module" in seen[0]
    assert "is defined inside another function" in seen[1]
    assert "cannot be pickled" in seen[2]
    assert "no runner is called 'gpu'; there are: 'cpu'" in seen[3]
    assert {step.attempts for step in steps} == {1}, "the same would come of a retry"


async def test_what_a_step_raises_there_is_raised_here_with_the_traceback_of_there() -> None:
    @workflow(id="raising", retries=0)
    async def raising(ctx: Context) -> list[str]:
        said: list[str] = []
        with pytest.raises(bodies.PrivateError) as own:
            await ctx.step.run("own", bodies.fail, "broken", runner="cpu")
        assert own.value.number == 7
        said += own.value.__notes__
        with pytest.raises(StepFailedError, match=r"sys.exit\(3\)"):
            await ctx.step.run("exit", bodies.exit_politely, 3, runner="cpu")
        with pytest.raises(StepFailedError, match="KeyboardInterrupt"):
            await ctx.step.run("interrupt", bodies.interrupt_itself, runner="cpu")
        with pytest.raises(PayloadError, match="its result cannot be pickled"):
            await ctx.step.run("file", bodies.open_file, __file__, runner="cpu")
        return said

    pool = ProcessPoolRunner(max_workers=1)
    async with opened(pool) as runtime:
        (note,) = await runtime.execute(raising)
        assert len(pool.pids) == 1
    assert "heavy_bodies.py" in note
    assert "in fail" in note


async def test_a_worker_that_dies_fails_its_step_by_name_and_no_other(tmp_path: Path) -> None:
    @workflow(id="dying", retries=0)
    async def dying(ctx: Context) -> tuple[str, str]:
        with pytest.raises(WorkerLostError, match="ended with exit code 5 while it executed the step") as left:
            await ctx.step.run("leave", bodies.leave, 5, runner="cpu")
        assert left.value.exit_code == 5
        other = asyncio.create_task(ctx.step.run("other", bodies.hang_once, str(tmp_path / "other"), runner="cpu"))
        again = await ctx.step.run("again", bodies.hang_once, str(tmp_path / "again"), runner="cpu", retries=AT_ONCE)
        other.cancel()
        return again, str(left.value)

    async with opened() as runtime:
        handle = await runtime.start(dying, run_id="d")
        await until(lambda: words(tmp_path / "again") and words(tmp_path / "other"))
        (killed,), (other,) = words(tmp_path / "again"), words(tmp_path / "other")
        os.kill(int(killed), signal.SIGKILL)
        again, _ = await handle.result()
        assert again == "done"
        await until(lambda: not bodies.is_alive(int(other)))
        found = {step.step_id: step for step in await runtime.steps("d")}
    assert len(words(tmp_path / "again")) == 2
    assert words(tmp_path / "other") == [other], "it was not touched by the death of the other"
    assert found["again"].attempts == 2


async def test_a_step_that_times_out_has_its_process_killed_with_what_that_has_started(tmp_path: Path) -> None:
    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> int:
        path = tmp_path / "slow"
        with pytest.raises(StepTimeoutError):
            await ctx.step.run("hang", bodies.hang_with_a_child, str(path), timeout="3s", runner="cpu")
        return await ctx.step.run("next", bodies.double, 4, runner="cpu")

    async with opened(ProcessPoolRunner(max_workers=1)) as runtime:
        assert await runtime.execute(slow) == 8
        worker, child = map(int, words(tmp_path / "slow"))
        await until(lambda: not bodies.is_alive(worker) and not bodies.is_alive(child))


async def test_waiting_for_a_free_worker_does_not_count_for_the_timeout(tmp_path: Path) -> None:
    @workflow(id="crowd", retries=0)
    async def crowd(ctx: Context) -> list[int]:
        first = asyncio.create_task(ctx.step.run("hang", bodies.note_and_hang, str(tmp_path / "hang"), runner="cpu"))
        await ctx.step.run("until", until, lambda: words(tmp_path / "hang"))
        rest = [
            asyncio.create_task(ctx.step.run(f"double {i}", bodies.double, i, timeout="2s", runner="cpu"))
            for i in range(3)
        ]
        await ctx.step.sleep("longer than their timeout", "2500ms")
        first.cancel()
        return list(await asyncio.gather(*rest))

    async with opened(ProcessPoolRunner(max_workers=1)) as runtime:
        assert await runtime.execute(crowd) == [0, 2, 4]


async def test_cancelling_a_run_kills_its_step_there_and_the_report_counts_it(tmp_path: Path) -> None:
    @workflow(id="hang")
    async def hang(ctx: Context) -> None:
        await ctx.step.run("hang", bodies.note_and_hang, str(tmp_path / "hang"), runner="cpu")

    pool = ProcessPoolRunner(max_workers=1)
    async with opened(pool) as runtime:
        handle = await runtime.start(hang, run_id="h")
        await until(lambda: words(tmp_path / "hang"))
        assert "executes step 'hang' by runner 'cpu'" in await runtime.why("h")
        report = await handle.cancel()
        (pid,) = map(int, words(tmp_path / "hang"))
        assert not bodies.is_alive(pid), "its end belongs to the cancellation"
        assert (report.interrupted_steps, report.stuck, report.cleanup_errors) == (1, [], [])
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert pool.pids == []
        tree: RunTree = await runtime.tree("h")
        assert tree.run.status == "cancelled"


@pytest.mark.parametrize("turns", [1, 3, 20])
@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_worker_that_is_not_wanted_any_more_while_it_starts_is_not_left_behind(turns: int, how: str) -> None:
    pool = ProcessPoolRunner(max_workers=1)
    began: list[bool] = []
    call = StepCall(bodies.double, (1,), "here")
    task = asyncio.create_task(pool.execute(call, lambda: began.append(True)))
    for _ in range(turns):
        await asyncio.sleep(0.001)
    if how == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await pool.close()
        with contextlib.suppress(WorkerLostError):
            await task
    assert pool.pids == []
    await until(lambda: not multiprocessing.active_children())
    assert await pool.execute(call, lambda: began.append(True)) == 2, "another one is started"
    await pool.close()
    await until(lambda: not multiprocessing.active_children())


async def test_when_workers_die_one_after_the_other_before_they_begin_a_step_the_error_says_that_nothing_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int | None] = []

    def dies(self: Worker, call: StepCall) -> Reply:
        del call
        given.append(self.pid)
        self.kill()
        raise NotBegunError

    monkeypatch.setattr(Worker, "execute", dies)
    pool = ProcessPoolRunner(max_workers=1)
    began: list[bool] = []
    with pytest.raises(WorkerLostError, match=r"killed by SIGKILL.* before it began the step; nothing of it was done"):
        await pool.execute(StepCall(bodies.double, (1,), "here"), lambda: began.append(True))
    assert len(set(given)) == 3
    assert (began, pool.pids) == ([True], [])


async def test_a_pool_that_is_closed_gives_what_a_worker_had_not_begun_to_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int | None] = []

    def is_killed(self: Worker, call: StepCall) -> Reply:
        del call
        given.append(self.pid)
        assert self.pid is not None
        while bodies.is_alive(self.pid):
            time.sleep(0.01)
        raise NotBegunError

    monkeypatch.setattr(Worker, "execute", is_killed)
    pool = ProcessPoolRunner(max_workers=1)
    task = asyncio.create_task(pool.execute(StepCall(bodies.double, (1,), "here"), lambda: None))
    await until(lambda: given)
    await pool.close()
    with pytest.raises(WorkerLostError):
        await asyncio.wait_for(task, 20)
    assert (len(given), pool.pids) == (1, [])


async def test_leaving_the_runtime_ends_the_workers_and_the_run_goes_on_in_the_next_one(tmp_path: Path) -> None:
    @workflow(id="twice")
    async def twice(ctx: Context) -> str:
        await ctx.step.run("double", bodies.double, 2, runner="cpu")
        return await ctx.step.run("hang once", bodies.hang_once, str(tmp_path / "pids"), runner="cpu")

    pool = ProcessPoolRunner(max_workers=2)
    runtime = Runtime(tmp_path / "r.db", workflows=[twice], step_runners={"cpu": pool}, drain_timeout=0)
    async with runtime:
        await runtime.start(twice, run_id="t")
        await until(lambda: words(tmp_path / "pids"))
    assert pool.pids == []
    assert not bodies.is_alive(int(words(tmp_path / "pids")[0]))
    again = Runtime(tmp_path / "r.db", workflows=[twice], step_runners={"cpu": pool})
    async with again:  # the same pool: it starts processes again
        assert await again.run("t").result() == "done"
        steps = await again.steps("t")
    assert [step.step_id for step in steps] == ["double", "hang once"]


async def test_a_worker_is_replaced_after_so_many_steps_and_one_that_died_idle_at_once() -> None:
    @workflow(id="counted")
    async def counted(ctx: Context) -> list[int]:
        pids = [await ctx.step.run(f"step {i}", bodies.whoami, runner="cpu") for i in range(3)]
        with suppress(ProcessLookupError):  # a second attempt: the step was given to it before it was known to be dead
            os.kill(pids[-1], signal.SIGKILL)
        await ctx.step.run("until", until, lambda: not bodies.is_alive(pids[-1]))
        return [*pids, await ctx.step.run("last", bodies.whoami, runner="cpu")]

    async with opened(ProcessPoolRunner(max_workers=1, max_steps_per_worker=2)) as runtime:
        first, second, third, last = await runtime.execute(counted)
    assert first == second
    assert len({second, third, last}) == 3


async def test_a_step_that_was_given_to_a_worker_that_had_died_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow(id="given")
    async def given(ctx: Context) -> list[int]:
        first = await ctx.step.run("first", bodies.whoami, runner="cpu")
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        await ctx.step.run("until", until, lambda: not bodies.is_alive(first))
        return [first, await ctx.step.run("last", bodies.whoami, runner="cpu", retries=0)]

    monkeypatch.setattr(Worker, "is_alive", True)  # its death is seen only when it is given the step
    async with opened(ProcessPoolRunner(max_workers=1)) as runtime:
        first, last = await runtime.execute(given, run_id="given")
        steps = await runtime.steps("given")
    assert first != last
    assert [step.attempts for step in steps] == [1, 1, 1]


async def test_a_memoized_step_needs_no_runner_and_may_move_from_one_to_another() -> None:
    runs: list[str | None] = []

    @workflow(id="moving", retries=AT_ONCE)
    async def moving(ctx: Context) -> int:
        runner = "cpu" if ctx.attempt == 1 else "nobody has this name"
        runs.append(runner)
        value = await ctx.step.run("double", bodies.double, 3, runner=runner)
        if ctx.attempt == 1:
            raise ValueError("once more")
        return value

    async with Runtime(":memory:", step_runners={"cpu": InProcessRunner()}) as runtime:
        assert await runtime.execute(moving) == 6
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"step_runners": [ProcessPoolRunner]}, "must map names to runners"),
        ({"step_runners": {"": InProcessRunner()}}, "a runner's name must be a non-empty string"),
        ({"step_runners": {"cpu": 4}}, "'cpu' must be a StepRunner, such as ProcessPoolRunner"),
    ],
)
async def test_runners_that_are_none_are_refused_when_the_runtime_is_made(options: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Runtime(":memory:", **options)


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
async def test_a_number_of_workers_is_at_least_one(value: Any) -> None:
    with pytest.raises(ValueError, match="max_workers must be a number of at least 1"):
        ProcessPoolRunner(max_workers=value)
    with pytest.raises(ValueError, match="max_steps_per_worker"):
        ProcessPoolRunner(max_steps_per_worker=value)


async def test_a_step_that_waits_for_a_free_worker_says_so_and_names_no_deadline(tmp_path: Path) -> None:
    @workflow(id="hanging")
    async def hanging(ctx: Context, number: int) -> None:
        await ctx.step.run("hang", bodies.note_and_hang, str(tmp_path / str(number)), runner="cpu", timeout="1h")

    async with opened(ProcessPoolRunner(max_workers=1)) as runtime:
        first = await runtime.start(hanging, 1)
        await until(lambda: words(tmp_path / "1"))
        second = await runtime.start(hanging, 2)
        while "worker" not in (await second.info()).waiting_for:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        said = await runtime.why(second.run_id)
        assert "waits for a free worker of runner 'cpu' for step 'hang' since" in said
        assert "at most" not in said
        assert "at most" in await runtime.why(first.run_id)
        await asyncio.gather(first.cancel(), second.cancel())
