"""start_child, terminate_child, restart_child, delete_child and what they refuse, as OTP's manual has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from supervisor_kit import Puppet, settle

from supervisors import (
    ChildCounts,
    ChildExistsError,
    ChildNotFoundError,
    ChildRunningError,
    ChildSpec,
    ChildStartError,
    ChildState,
    Ending,
    ExitKind,
    MaxRestartsExceeded,
    Restart,
    Shutdown,
    Supervisor,
    SupervisorNotRunningError,
)


@pytest.mark.asyncio
async def test_a_started_child_has_taken_its_first_step_and_is_shown() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec(Restart.TRANSIENT))
        assert puppet.log == ["+a"]
        [info] = supervisor.which_children()
        assert (info.id, info.state, info.task) == ("a", ChildState.RUNNING, child.task)
        assert (info.restart, info.restarts, info.last_exit) == (Restart.TRANSIENT, 0, None)


@pytest.mark.asyncio
async def test_start_gets_the_arguments_of_the_specification_in_each_life() -> None:
    seen: list[tuple[int, str]] = []

    async def work(number: int, word: str) -> None:
        seen.append((number, word))

    async with Supervisor(max_restarts=1) as supervisor:
        await supervisor.start_child(ChildSpec("a", work, args=(1, "x"), restart=Restart.TRANSIENT))
        await settle()
        await supervisor.restart_child("a")
    assert seen == [(1, "x"), (1, "x")]


@pytest.mark.asyncio
async def test_an_id_is_refused_while_its_child_runs_and_after_it_was_terminated() -> None:
    first, second = Puppet("a"), Puppet("a")
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(first.spec())
        for is_running in (True, False):
            with pytest.raises(ChildExistsError) as caught:
                await supervisor.start_child(second.spec())
            assert caught.value.is_running is is_running
            if is_running:
                await supervisor.terminate_child("a")
        assert second.starts == 0
        assert [info.child for info in supervisor.which_children()] == [child]


def raises() -> object:
    raise OSError("no port")


@pytest.mark.parametrize(("start", "cause"), [(raises, OSError), (lambda: None, TypeError)])
@pytest.mark.asyncio
async def test_a_child_that_cannot_be_started_is_reported_and_leaves_nothing_behind(
    start: Callable[[], Awaitable[None]], cause: type[Exception]
) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ChildStartError) as caught:
            await supervisor.start_child(ChildSpec("a", start))  # type: ignore[arg-type]  # pyright: ignore
        assert isinstance(caught.value.__cause__, cause)
        assert supervisor.which_children() == []
        assert supervisor.is_running
        await supervisor.start_child(Puppet("a").spec())


@pytest.mark.asyncio
async def test_a_terminated_child_stays_ended_keeps_its_place_and_can_be_restarted() -> None:
    a, b = Puppet("a"), Puppet("b")
    async with Supervisor(max_restarts=0) as supervisor:
        first = await supervisor.start_child(a.spec())
        await supervisor.start_child(b.spec())
        exit = await supervisor.terminate_child("a")
        assert exit is not None
        assert (exit.kind, exit.ending, exit.is_requested) == (ExitKind.SHUTDOWN, Ending.CANCELLED, True)
        await settle()
        assert [info.state for info in supervisor.which_children()] == [ChildState.TERMINATED, ChildState.RUNNING]
        assert await supervisor.terminate_child("a") is None
        second = await supervisor.restart_child("a")
        assert [info.child for info in supervisor.which_children()] == [second, info_of(supervisor, "b")]
        assert (first.exit, second.exit) == (exit, None)
        assert [info.restarts for info in supervisor.which_children()] == [0, 0]


def info_of(supervisor: Supervisor, child_id: str) -> object:
    return next(info.child for info in supervisor.which_children() if info.id == child_id)


@pytest.mark.asyncio
async def test_a_terminated_temporary_child_is_forgotten() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start_child(Puppet("a").spec(Restart.TEMPORARY))
        await supervisor.terminate_child("a")
        assert supervisor.which_children() == []
        with pytest.raises(ChildNotFoundError):
            await supervisor.restart_child("a")


@pytest.mark.asyncio
async def test_a_transient_child_that_has_finished_can_be_restarted_by_hand() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        await supervisor.start_child(puppet.spec(Restart.TRANSIENT))
        await puppet.finish()
        await supervisor.restart_child("a")
        assert puppet.starts == 2


@pytest.mark.asyncio
async def test_a_running_child_can_be_neither_restarted_nor_deleted() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start_child(Puppet("a").spec())
        for call in (supervisor.restart_child, supervisor.delete_child):
            with pytest.raises(ChildRunningError, match="'a'"):
                await call("a")


@pytest.mark.asyncio
async def test_a_deleted_child_is_gone_and_its_id_is_free() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start_child(Puppet("a").spec())
        await supervisor.terminate_child("a")
        await supervisor.delete_child("a")
        assert supervisor.which_children() == []
        await supervisor.start_child(Puppet("a").spec())


@pytest.mark.asyncio
async def test_unknown_children_are_named() -> None:
    async with Supervisor() as supervisor:
        for call in (supervisor.terminate_child, supervisor.restart_child, supervisor.delete_child):
            with pytest.raises(ChildNotFoundError, match="'nobody'"):
                await call("nobody")


@pytest.mark.asyncio
async def test_a_restart_by_hand_that_fails_leaves_the_child_ended() -> None:
    puppet = Puppet("a")
    async with Supervisor(max_restarts=0) as supervisor:
        await supervisor.start_child(puppet.spec())
        await supervisor.terminate_child("a")
        puppet.failures_to_start = 1
        with pytest.raises(ChildStartError):
            await supervisor.restart_child("a")
        assert [info.state for info in supervisor.which_children()] == [ChildState.TERMINATED]
        await supervisor.restart_child("a")


@pytest.mark.asyncio
async def test_children_are_counted_by_specification_activity_and_type() -> None:
    async with Supervisor() as supervisor:
        for name in "abc":
            await supervisor.start_child(Puppet(name).spec())
        await supervisor.start_child(Supervisor(name="nested").as_child())
        await supervisor.terminate_child("b")
        assert supervisor.count_children() == ChildCounts(specs=4, active=3, supervisors=1, workers=3)


@pytest.mark.asyncio
async def test_of_concurrent_callers_who_start_one_id_one_wins_and_the_others_are_told() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        calls = [supervisor.start_child(puppet.spec()) for _ in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, ChildExistsError) for result in results) == 9
        assert puppet.starts == 1


@pytest.mark.asyncio
async def test_concurrent_callers_who_terminate_one_child_all_come_back_when_it_has_ended() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        await supervisor.start_child(puppet.spec())
        exits = await asyncio.gather(*(supervisor.terminate_child("a") for _ in range(3)))
        assert puppet.log == ["+a", "-a"]
        assert [exit is not None for exit in exits] == [True, False, False]


@pytest.mark.asyncio
async def test_a_child_that_failed_just_before_it_is_terminated_stays_ended() -> None:
    puppet, blocker = Puppet("a"), Puppet("b")
    async with Supervisor(max_restarts=0) as supervisor:
        await supervisor.start_child(blocker.spec())
        await supervisor.start_child(puppet.spec())
        busy = asyncio.create_task(supervisor.terminate_child("b"))
        terminated = asyncio.create_task(supervisor.terminate_child("a"))
        await asyncio.sleep(0)
        await puppet.fail()
        exit = await terminated
        await busy
        assert exit is not None
        assert (exit.kind, exit.is_requested) == (ExitKind.ERROR, False)
        await settle()
        assert (puppet.starts, supervisor.is_running) == (1, True)
        assert [info.state for info in supervisor.which_children()] == [ChildState.TERMINATED] * 2


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.asyncio
async def test_a_start_whose_caller_is_cancelled_is_carried_out_and_supervised(turns: int) -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        caller = asyncio.create_task(supervisor.start_child(puppet.spec()))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        await settle()
        assert [info.id for info in supervisor.which_children()] == ["a"]
        assert puppet.log == ["+a"]
    assert puppet.log == ["+a", "-a"]


@pytest.mark.asyncio
async def test_a_failed_start_whose_caller_is_gone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with Supervisor() as supervisor:
        caller = asyncio.create_task(supervisor.start_child(ChildSpec("a", raises)))  # type: ignore[arg-type]  # pyright: ignore
        await asyncio.sleep(0)
        caller.cancel()
        await settle()
        assert supervisor.which_children() == []
    assert [record.levelno for record in caplog.records if "no port" in record.message] == [logging.WARNING]


@pytest.mark.asyncio
async def test_a_termination_whose_caller_is_cancelled_goes_on_to_its_end() -> None:
    ended = asyncio.Event()
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            ended.set()

    async with Supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", slow_to_stop, shutdown=Shutdown.INFINITY))
        caller = asyncio.create_task(supervisor.terminate_child("a"))
        await settle()
        caller.cancel()
        await settle()
        assert caller.cancelled()
        assert not ended.is_set()
        may_end.set()
        await settle()
        assert ended.is_set()
        assert [info.state for info in supervisor.which_children()] == [ChildState.TERMINATED]


@pytest.mark.asyncio
async def test_a_supervisor_that_is_not_running_refuses_calls() -> None:
    supervisor = Supervisor(name="shop")
    with pytest.raises(SupervisorNotRunningError, match="'shop' was not started"):
        await supervisor.start_child(Puppet("a").spec())
    async with supervisor:
        pass
    with pytest.raises(SupervisorNotRunningError, match="'shop' is stopping or has ended"):
        await supervisor.terminate_child("a")
    assert supervisor.which_children() == []


@pytest.mark.asyncio
async def test_callers_who_still_wait_when_the_supervisor_stops_are_told() -> None:
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()

    async with Supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("slow", slow_to_stop, shutdown=Shutdown.INFINITY))
        terminating = asyncio.create_task(supervisor.terminate_child("slow"))
        await settle()
        waiting = asyncio.create_task(supervisor.start_child(Puppet("a").spec()))
        await settle()
        stopping = asyncio.create_task(supervisor.stop())
        await settle()
        may_end.set()
        await stopping
        assert await terminating is not None
        with pytest.raises(SupervisorNotRunningError):
            await waiting


@pytest.mark.asyncio
async def test_why_the_supervisor_is_gone_is_the_cause_of_its_refusal() -> None:
    puppet = Puppet("a")
    supervisor = Supervisor(max_restarts=0)
    await supervisor.__aenter__()
    await supervisor.start_child(puppet.spec())
    await puppet.fail()
    with pytest.raises(SupervisorNotRunningError) as caught:
        await supervisor.start_child(Puppet("b").spec())
    assert isinstance(caught.value.__cause__, MaxRestartsExceeded)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"shutdown": -1}, ValueError, "INFINITY"),
        ({"shutdown": float("inf")}, ValueError, "INFINITY"),
        ({"shutdown": float("nan")}, ValueError, "0 or more seconds"),
        ({"shutdown": True}, TypeError, "seconds such as 5.0"),
        ({"shutdown": "5s"}, TypeError, "seconds such as 5.0"),
        ({"restart": "permanent"}, TypeError, "Restart.PERMANENT"),
        ({"start": None}, TypeError, "async callable"),
        ({"id": []}, TypeError, "unhashable"),
    ],
)
def test_a_senseless_specification_is_refused_with_a_right_value(
    options: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        ChildSpec(**({"id": "a", "start": settle} | options))  # type: ignore[arg-type]  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strategy": "one_for_one"}, TypeError),
        ({"max_restarts": -1}, ValueError),
        ({"max_seconds": 0}, ValueError),
        ({"kill_seconds": float("inf")}, ValueError),
    ],
)
def test_a_senseless_supervisor_is_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Supervisor(**options)  # type: ignore[arg-type]  # pyright: ignore
