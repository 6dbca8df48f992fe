"""What a running supervisor does when its children end."""

from __future__ import annotations

import asyncio
import logging

import pytest
from supervisor_kit import Clock, Puppet, appears, settle

from supervisors import (
    ChildSpec,
    ChildState,
    ExitShutdown,
    MaxRestartsExceeded,
    Restart,
    Shutdown,
    Strategy,
    Supervisor,
)


@pytest.mark.parametrize(
    ("restart", "error", "starts", "is_known"),
    [
        (Restart.PERMANENT, None, 2, True),
        (Restart.PERMANENT, ExitShutdown(), 2, True),
        (Restart.PERMANENT, ValueError(), 2, True),
        (Restart.TRANSIENT, None, 1, True),
        (Restart.TRANSIENT, ExitShutdown(), 1, True),
        (Restart.TRANSIENT, ValueError(), 2, True),
        (Restart.TEMPORARY, None, 1, False),
        (Restart.TEMPORARY, ExitShutdown(), 1, False),
        (Restart.TEMPORARY, ValueError(), 1, False),
    ],
)
@pytest.mark.asyncio
async def test_a_child_that_ends_is_restarted_kept_or_forgotten(
    restart: Restart, error: Exception | None, starts: int, is_known: bool
) -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        await supervisor.start_child(puppet.spec(restart))
        await (puppet.finish() if error is None else puppet.fail(error))
        assert puppet.starts == starts
        assert [child.id for child in supervisor.which_children()] == (["a"] if is_known else [])


@pytest.mark.asyncio
async def test_a_child_cancelled_behind_the_supervisors_back_counts_as_failed() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec(Restart.TRANSIENT))
        child.task.cancel()
        await settle()
        assert puppet.starts == 2


@pytest.mark.asyncio
async def test_a_child_cancelled_before_its_first_step_is_noticed_and_restarted() -> None:
    puppet = Puppet("a")

    async with Supervisor() as supervisor:
        starting = asyncio.create_task(supervisor.start_child(puppet.spec(Restart.TRANSIENT)))
        first = await appears(supervisor, "a")
        first.task.cancel()
        await starting
        await settle()
        assert (puppet.starts, puppet.log) == (2, ["+a"])


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.REST_FOR_ONE, ["-b", "-t", "-c", "+b", "+c"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-t", "-c", "-a", "+a", "+b", "+c"]),
    ],
)
@pytest.mark.asyncio
async def test_siblings_are_stopped_newest_first_and_started_oldest_first(strategy: Strategy, log: list[str]) -> None:
    seen: list[str] = []
    a, b, c, temporary = (Puppet(name, seen) for name in "abct")
    async with Supervisor(strategy=strategy) as supervisor:
        for puppet in (a, b, c):
            await supervisor.start_child(puppet.spec())
        await supervisor.start_child(temporary.spec(Restart.TEMPORARY))
        seen.clear()
        await b.fail()
        assert seen == log


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.asyncio
async def test_the_end_of_a_temporary_child_never_touches_its_siblings(strategy: Strategy) -> None:
    seen: list[str] = []
    a, b, c = (Puppet(name, seen) for name in "abc")
    async with Supervisor(strategy=strategy, max_restarts=0) as supervisor:
        for puppet, restart in ((a, Restart.PERMANENT), (b, Restart.TEMPORARY), (c, Restart.PERMANENT)):
            await supervisor.start_child(puppet.spec(restart))
        await b.fail()
        assert seen == ["+a", "+b", "+c", "-b"]


@pytest.mark.asyncio
async def test_one_for_all_brings_back_a_sibling_that_had_been_terminated() -> None:
    a, b = Puppet("a"), Puppet("b")
    async with Supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await supervisor.start_child(a.spec())
        await supervisor.start_child(b.spec())
        await supervisor.terminate_child("a")
        await b.fail()
        assert a.starts == 2


@pytest.mark.asyncio
async def test_two_siblings_that_fail_at_once_cost_two_restarts_under_one_for_one_and_one_under_one_for_all() -> None:
    for strategy, max_restarts in ((Strategy.ONE_FOR_ONE, 2), (Strategy.ONE_FOR_ALL, 1)):
        a, b = Puppet("a"), Puppet("b")
        async with Supervisor(strategy=strategy, max_restarts=max_restarts) as supervisor:
            await supervisor.start_child(a.spec())
            await supervisor.start_child(b.spec())
            await asyncio.gather(a.fail(), b.fail())
            assert (a.starts, b.starts, supervisor.is_running) == (2, 2, True)


@pytest.mark.asyncio
async def test_as_many_restarts_as_allowed_are_made_and_the_next_end_is_one_too_many() -> None:
    puppet, sibling, clock = Puppet("a"), Puppet("b"), Clock()
    last = ValueError("the last straw")

    async def use() -> None:
        async with Supervisor(max_restarts=2, max_seconds=5, clock=clock, name="shop") as supervisor:
            await supervisor.start_child(puppet.spec())
            await supervisor.start_child(sibling.spec())
            for _ in range(2):
                await puppet.fail()
            assert puppet.starts == 3
            await puppet.fail(last)
            assert not supervisor.is_running

    with pytest.raises(MaxRestartsExceeded) as caught:
        await use()
    failure = caught.value
    assert (failure.supervisor, failure.child_id, failure.restarts) == ("shop", "a", 3)
    assert (failure.max_restarts, failure.max_seconds) == (2, 5)
    assert failure.__cause__ is last
    assert sibling.log == ["+b", "-b"]
    for told in ("'shop'", "'a'", "restart 3", "5 s", "2 are allowed"):
        assert told in str(failure)


@pytest.mark.parametrize(("pause", "survives"), [(5.0, False), (5.01, True)])
@pytest.mark.asyncio
async def test_the_window_ends_just_after_max_seconds(pause: float, survives: bool) -> None:
    puppet, clock = Puppet("a"), Clock()
    supervisor = Supervisor(max_restarts=1, max_seconds=5, clock=clock)
    running = asyncio.create_task(supervisor.run())
    await settle()
    await supervisor.start_child(puppet.spec())
    await puppet.fail()
    clock.now += pause
    await puppet.fail()
    assert supervisor.is_running is survives
    await supervisor.stop()
    await asyncio.wait([running])
    assert (running.exception() is None) is survives


@pytest.mark.asyncio
async def test_intensity_counts_the_restarts_of_all_children_together() -> None:
    a, b = Puppet("a"), Puppet("b")

    async def use() -> None:
        async with Supervisor(max_restarts=1) as supervisor:
            await supervisor.start_child(a.spec())
            await supervisor.start_child(b.spec())
            await a.fail()
            await b.fail()

    with pytest.raises(MaxRestartsExceeded, match="'b'"):
        await use()


@pytest.mark.asyncio
async def test_a_failure_to_start_again_counts_as_a_restart_and_is_tried_once_more() -> None:
    puppet = Puppet("a")
    async with Supervisor(max_restarts=3) as supervisor:
        await supervisor.start_child(puppet.spec())
        puppet.failures_to_start = 2
        await puppet.fail()
        assert (puppet.starts, puppet.failures_to_start) == (2, 0)
        assert [child.restarts for child in supervisor.which_children()] == [1]


@pytest.mark.asyncio
async def test_a_child_that_cannot_start_again_exceeds_the_intensity() -> None:
    puppet = Puppet("a")

    async def use() -> None:
        async with Supervisor(max_restarts=3) as supervisor:
            await supervisor.start_child(puppet.spec())
            puppet.failures_to_start = 100
            await puppet.fail()
            assert puppet.failures_to_start == 97

    with pytest.raises(MaxRestartsExceeded) as caught:
        await use()
    assert caught.value.__cause__ is not None
    assert "a cannot start" in str(caught.value.__cause__)


@pytest.mark.asyncio
async def test_a_child_between_two_tries_can_be_terminated_but_not_deleted_or_restarted() -> None:
    puppet = Puppet("a")
    async with Supervisor(max_restarts=10_000) as supervisor:
        await supervisor.start_child(puppet.spec())
        puppet.failures_to_start = 9_000
        await puppet.fail()
        assert [child.state for child in supervisor.which_children()] == [ChildState.RESTARTING]
        for call in (supervisor.restart_child, supervisor.delete_child):
            with pytest.raises(Exception, match="being restarted"):
                await call("a")
        assert await supervisor.terminate_child("a") is None
        puppet.failures_to_start = 0
        await settle()
        assert [child.state for child in supervisor.which_children()] == [ChildState.TERMINATED]
        assert puppet.starts == 1


@pytest.mark.asyncio
async def test_under_rest_for_one_the_rest_waits_for_the_child_that_could_not_start() -> None:
    seen: list[str] = []
    a, b, c = (Puppet(name, seen) for name in "abc")
    async with Supervisor(strategy=Strategy.REST_FOR_ONE) as supervisor:
        for puppet in (a, b, c):
            await supervisor.start_child(puppet.spec())
        seen.clear()
        b.failures_to_start = 1
        await a.fail()
        assert seen == ["-a", "-c", "-b", "+a", "+b", "+c"]
        assert (a.starts, b.starts, c.starts) == (2, 2, 2)


@pytest.mark.asyncio
async def test_each_exception_is_logged_once_at_the_level_of_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    permanent, temporary = Puppet("p"), Puppet("t")
    errors = [ValueError("one"), ValueError("two"), ValueError("three")]

    async def use() -> None:
        async with Supervisor(max_restarts=1) as supervisor:
            await supervisor.start_child(temporary.spec(Restart.TEMPORARY))
            await supervisor.start_child(permanent.spec())
            await temporary.fail(errors[0])
            await permanent.fail(errors[1])
            await permanent.fail(errors[2])

    with caplog.at_level(logging.DEBUG), pytest.raises(MaxRestartsExceeded):
        await use()
    lines = [
        (record.levelname, record.exc_info[1] if record.exc_info else None)
        for record in caplog.records
        if record.name == "supervisors"
    ]
    assert lines == [("ERROR", errors[0]), ("WARNING", errors[1]), ("ERROR", errors[2])]
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.WARNING] == []


@pytest.mark.asyncio
async def test_an_end_in_good_order_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    transient, temporary = Puppet("a"), Puppet("b")
    with caplog.at_level(logging.DEBUG, "supervisors"):
        async with Supervisor() as supervisor:
            await supervisor.start_child(transient.spec(Restart.TRANSIENT))
            await supervisor.start_child(temporary.spec(Restart.TEMPORARY))
            await transient.finish()
            await temporary.finish()
    assert caplog.messages == []


@pytest.mark.asyncio
async def test_nobody_is_started_again_once_the_supervisor_is_told_to_stop() -> None:
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()

    puppet = Puppet("a")
    async with Supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await supervisor.start_child(puppet.spec())
        await supervisor.start_child(ChildSpec("slow", slow_to_stop, shutdown=Shutdown.INFINITY))
        await puppet.fail()
        stopping = asyncio.create_task(supervisor.stop())
        await settle()
        may_end.set()
        await stopping
    assert puppet.starts == 1
