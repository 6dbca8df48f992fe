"""The life of a supervisor itself: entering, leaving, running as a child of another."""

from __future__ import annotations

import asyncio
import logging

import pytest
from supervisor_kit import Puppet, settle

from supervisors import (
    ChildSpec,
    ChildStartError,
    ChildState,
    MaxRestartsExceeded,
    Restart,
    Shutdown,
    Strategy,
    Supervisor,
    SupervisorError,
    SupervisorNotRunningError,
)


@pytest.mark.asyncio
async def test_the_example_of_the_reference_runs_as_written() -> None:
    async def poll() -> None:
        await asyncio.sleep(3600)

    async with Supervisor(strategy=Strategy.ONE_FOR_ONE, max_restarts=3, max_seconds=5) as supervisor:
        child = await supervisor.start_child(
            ChildSpec(id="poller", start=poll, restart=Restart.PERMANENT, shutdown=5.0)
        )
        await supervisor.terminate_child("poller")
        await supervisor.restart_child("poller")
        [info] = supervisor.which_children()
        assert info.state is ChildState.RUNNING
        assert info.child is not child


@pytest.mark.asyncio
async def test_a_supervisor_may_be_entered_in_one_task_and_left_in_another() -> None:
    puppet, supervisor = Puppet("a"), Supervisor()
    await asyncio.create_task(supervisor.__aenter__())
    await asyncio.create_task(supervisor.start_child(puppet.spec()))
    await settle()
    assert puppet.log == ["+a"]
    await asyncio.create_task(supervisor.__aexit__(None, None, None))
    assert puppet.log == ["+a", "-a"]


@pytest.mark.asyncio
async def test_a_supervisor_outlives_the_task_that_entered_it_even_when_that_is_cancelled() -> None:
    puppet, supervisor = Puppet("a"), Supervisor()

    async def enter_and_hang() -> None:
        await supervisor.__aenter__()
        await supervisor.start_child(puppet.spec())
        await asyncio.sleep(3600)

    task = asyncio.create_task(enter_and_hang())
    await settle()
    task.cancel()
    await settle()
    assert (supervisor.is_running, puppet.log) == (True, ["+a"])
    await supervisor.stop()


@pytest.mark.asyncio
async def test_leaving_stops_the_children_though_the_body_raised() -> None:
    puppet = Puppet("a")

    async def use() -> None:
        async with Supervisor() as supervisor:
            await supervisor.start_child(puppet.spec())
            raise KeyError

    with pytest.raises(KeyError):
        await use()
    assert puppet.log == ["+a", "-a"]


@pytest.mark.asyncio
async def test_leaving_waits_for_the_children_though_it_is_cancelled_again_and_again() -> None:
    may_end = asyncio.Event()
    log: list[str] = []

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            log.append("stopped")

    async def use() -> None:
        async with Supervisor() as supervisor:
            await supervisor.start_child(ChildSpec("a", slow_to_stop, shutdown=Shutdown.INFINITY))
            await asyncio.sleep(3600)

    user = asyncio.create_task(use())
    await settle()
    for _ in range(3):
        user.cancel()
        await settle()
    assert not user.done()
    may_end.set()
    await asyncio.wait([user])
    assert (user.cancelled(), log) == (True, ["stopped"])


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.asyncio
async def test_entering_that_is_cancelled_leaves_nothing_running(turns: int) -> None:
    puppet = Puppet("a")
    supervisor = Supervisor(children=[puppet.spec()])

    async def use() -> None:
        async with supervisor:
            await asyncio.sleep(3600)

    user = asyncio.create_task(use())
    for _ in range(turns):
        await asyncio.sleep(0)
    user.cancel()
    await settle()
    assert user.cancelled()
    assert not supervisor.is_running
    assert puppet.log in ([], ["+a", "-a"])


@pytest.mark.asyncio
async def test_initial_children_start_in_order_and_one_that_cannot_stops_the_others() -> None:
    log: list[str] = []
    a, b, c = (Puppet(name, log) for name in "abc")
    async with Supervisor(children=[a.spec(), b.spec()]):
        assert log == ["+a", "+b"]
    b.failures_to_start = 1
    broken = Supervisor(children=[a.spec(), b.spec(), c.spec()])
    with pytest.raises(ChildStartError, match="'b'"):
        async with broken:
            pass
    assert not broken.is_running
    assert (a.log.count("-a"), c.starts) == (a.log.count("+a"), 0)


@pytest.mark.asyncio
async def test_a_cancellation_on_its_way_out_goes_before_having_given_up() -> None:
    puppet = Puppet("a")

    async def use() -> None:
        async with Supervisor(max_restarts=0) as supervisor:
            await supervisor.start_child(puppet.spec())
            await asyncio.sleep(3600)

    user = asyncio.create_task(use())
    await settle()
    await puppet.fail()
    user.cancel()
    await asyncio.wait([user])
    assert user.cancelled()


@pytest.mark.asyncio
async def test_wait_and_run_raise_what_ended_the_supervisor() -> None:
    puppet, supervisor = Puppet("a"), Supervisor(max_restarts=0)
    running = asyncio.create_task(supervisor.run())
    await settle()
    waiting = asyncio.create_task(supervisor.wait())
    await supervisor.start_child(puppet.spec())
    await puppet.fail()
    for task in (running, waiting):
        with pytest.raises(MaxRestartsExceeded):
            await task
    await supervisor.stop()


@pytest.mark.asyncio
async def test_cancelling_a_waiter_does_not_stop_the_supervisor() -> None:
    async with Supervisor() as supervisor:
        waiting = asyncio.create_task(supervisor.wait())
        await settle()
        waiting.cancel()
        await settle()
        assert waiting.cancelled()
        assert supervisor.is_running


@pytest.mark.asyncio
async def test_stopping_twice_and_before_a_start_is_harmless_and_waiting_before_a_start_is_refused() -> None:
    supervisor = Supervisor()
    await supervisor.stop()
    with pytest.raises(SupervisorNotRunningError):
        await supervisor.wait()
    async with supervisor:
        await supervisor.stop()
        await supervisor.stop()


@pytest.mark.asyncio
async def test_a_supervisor_has_one_life_at_a_time_and_may_have_another_afterwards() -> None:
    puppet = Puppet("a")
    supervisor = Supervisor(children=[puppet.spec()])
    async with supervisor:
        with pytest.raises(SupervisorError, match="already running"):
            await supervisor.run()
        await supervisor.start_child(Puppet("dynamic").spec())
    async with supervisor:
        assert puppet.starts == 2
        assert [info.id for info in supervisor.which_children()] == ["a"]


@pytest.mark.asyncio
async def test_a_nested_supervisor_takes_children_at_once_and_the_tree_can_be_seen() -> None:
    log: list[str] = []
    nested = Supervisor(name="nested")
    async with Supervisor() as root:
        await root.start_child(Puppet("a", log).spec())
        await root.start_child(ChildSpec(id="nested", start=nested.run))
        await nested.start_child(Puppet("b", log).spec())
        await nested.start_child(Puppet("c", log).spec())
        tree = [(info.id, [child.id for child in info.children]) for info in root.which_children()]
        assert tree == [("a", []), ("nested", ["b", "c"])]
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert not nested.is_running


@pytest.mark.asyncio
async def test_a_nested_supervisor_that_gives_up_is_restarted_with_its_initial_children() -> None:
    leaf, sibling = Puppet("leaf"), Puppet("sibling")
    nested = Supervisor(name="nested", max_restarts=1, children=[leaf.spec()])
    async with Supervisor(children=[sibling.spec(), nested.as_child()]) as root:
        await settle()
        await leaf.fail()
        await leaf.fail()
        assert (leaf.starts, sibling.starts) == (3, 1)
        assert [(info.id, info.restarts) for info in root.which_children()] == [("sibling", 0), ("nested", 1)]
        assert [info.id for info in root.which_children()[1].children] == ["leaf"]


@pytest.mark.asyncio
async def test_failure_climbs_the_tree_when_every_level_has_given_up() -> None:
    leaf = Puppet("leaf")
    nested = Supervisor(name="nested", max_restarts=0, children=[leaf.spec()])
    error = ValueError("deep down")

    async def use() -> None:
        async with Supervisor(name="root", max_restarts=0, children=[nested.as_child()]):
            await settle()
            await leaf.fail(error)

    with pytest.raises(MaxRestartsExceeded) as caught:
        await use()
    failure = caught.value
    assert (failure.supervisor, failure.child_id) == ("root", "nested")
    assert isinstance(failure.__cause__, MaxRestartsExceeded)
    assert (failure.__cause__.child_id, failure.__cause__.__cause__) == ("leaf", error)


@pytest.mark.asyncio
async def test_a_nested_supervisor_cancelled_twice_still_stops_its_children_in_order() -> None:
    log: list[str] = []
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            log.append("-slow")

    nested = Supervisor(name="nested")
    running = asyncio.create_task(nested.run())
    await settle()
    await nested.start_child(Puppet("a", log).spec())
    await nested.start_child(ChildSpec("slow", slow_to_stop, shutdown=Shutdown.INFINITY))
    for _ in range(3):
        running.cancel()
        await settle()
    may_end.set()
    await asyncio.wait([running])
    assert (running.cancelled(), log) == (True, ["+a", "-slow", "-a"])


def test_a_host_that_tears_down_its_loop_gets_all_children_stopped_and_no_complaints(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    async def main() -> None:
        supervisor = Supervisor(children=[Puppet("a", log).spec(), Puppet("b", log).spec()])
        await supervisor.__aenter__()

    with caplog.at_level(logging.DEBUG, "supervisors"):
        asyncio.run(main())
    assert sorted(log) == ["+a", "+b", "-a", "-b"]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.asyncio
async def test_two_supervisors_in_one_loop_do_not_know_of_each_other() -> None:
    mine, yours = Puppet("a"), Puppet("a")
    async with Supervisor(max_restarts=5) as first, Supervisor() as second:
        await first.start_child(mine.spec())
        await second.start_child(yours.spec())
        await mine.fail()
        await first.stop()
        assert (second.is_running, yours.starts, yours.log) == (True, 1, ["+a"])


async def cancel_owner(supervisor: Supervisor) -> None:
    """What a host does to every task when it tears down its loop."""
    for task in asyncio.all_tasks():
        if task.get_name() == supervisor.name:
            task.cancel()
    await settle()


@pytest.mark.asyncio
async def test_a_host_that_cancels_the_owner_task_has_told_it_to_stop() -> None:
    puppet = Puppet("a")
    async with Supervisor(name="shop") as supervisor:
        await supervisor.start_child(puppet.spec())
        await cancel_owner(supervisor)
        await supervisor.wait()
        assert puppet.log == ["+a", "-a"]


@pytest.mark.asyncio
async def test_a_host_that_cancels_the_owner_task_while_it_stops_a_child_gets_the_others_stopped_too() -> None:
    log: list[str] = []
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            log.append("-slow")

    async with Supervisor(name="shop") as supervisor:
        await supervisor.start_child(Puppet("a", log).spec())
        await supervisor.start_child(ChildSpec("slow", slow_to_stop, shutdown=Shutdown.INFINITY))
        terminating = asyncio.create_task(supervisor.terminate_child("slow"))
        await settle()
        await cancel_owner(supervisor)
        assert log == ["+a"]
        may_end.set()
        assert await terminating is not None
        await supervisor.wait()
        assert log == ["+a", "-slow", "-a"]


@pytest.mark.asyncio
async def test_leaving_that_is_cancelled_ends_as_cancelled_once_the_children_have_ended() -> None:
    may_end = asyncio.Event()

    async def slow_to_stop() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()

    async def use() -> None:
        async with Supervisor() as supervisor:
            await supervisor.start_child(ChildSpec("a", slow_to_stop, shutdown=Shutdown.INFINITY))

    user = asyncio.create_task(use())
    await settle()
    user.cancel()
    await settle()
    assert not user.done()
    may_end.set()
    await asyncio.wait([user])
    assert user.cancelled()
