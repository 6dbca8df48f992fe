"""Monitors: told exactly once how a child ended, whenever one starts to watch."""

from __future__ import annotations

import asyncio

import pytest
from supervisor_kit import Puppet, appears, settle

from supervisors import Child, ChildSpec, Down, Ending, ExitKind, Restart, Supervisor


@pytest.mark.asyncio
async def test_a_monitor_tells_how_the_child_ended() -> None:
    puppet, error = Puppet("a"), ValueError()
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec(Restart.TEMPORARY))
        monitor = supervisor.monitor("a")
        await puppet.fail(error)
        down = await monitor
        assert down == Down("a", child.exit)
        assert down.exit is not None
        assert (down.exit.kind, down.exit.error) == (ExitKind.ERROR, error)
        assert await monitor == down


@pytest.mark.asyncio
async def test_a_child_watched_after_its_end_is_reported_at_once() -> None:
    kept, forgotten = Puppet("kept"), Puppet("forgotten")
    async with Supervisor() as supervisor:
        await supervisor.start_child(kept.spec(Restart.TRANSIENT))
        child = await supervisor.start_child(forgotten.spec(Restart.TEMPORARY))
        await kept.finish()
        await forgotten.finish()
        for watched in ("kept", child):
            down = await supervisor.monitor(watched)
            assert down.exit is not None
            assert down.exit.kind is ExitKind.NORMAL


@pytest.mark.asyncio
async def test_an_id_that_nobody_has_is_reported_as_such() -> None:
    async with Supervisor() as supervisor:
        assert await supervisor.monitor("nobody") == Down("nobody", None)
        told: list[Down] = []
        supervisor.monitor("nobody").add_callback(told.append)
        await settle()
        assert told == [Down("nobody", None)]


@pytest.mark.asyncio
async def test_a_monitor_watches_one_life_and_not_the_next() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        first = await supervisor.start_child(puppet.spec())
        told: list[Down] = []
        supervisor.monitor("a").add_callback(told.append)
        await puppet.fail()
        await puppet.fail()
        assert told == [Down("a", first.exit)]


@pytest.mark.asyncio
async def test_each_of_many_monitors_is_told_once_early_and_late() -> None:
    puppet = Puppet("a")
    told: list[Down] = []
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec())
        for _ in range(3):
            supervisor.monitor(child).add_callback(told.append)
        await supervisor.terminate_child("a")
        supervisor.monitor(child).add_callback(told.append)
        await settle()
    await settle()
    assert told == [Down("a", child.exit)] * 4


@pytest.mark.asyncio
async def test_cancelling_a_watcher_harms_neither_child_nor_monitor() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec())
        monitor = supervisor.monitor(child)

        async def watch() -> Down:
            return await monitor

        watcher, other = asyncio.create_task(watch()), asyncio.create_task(watch())
        await settle()
        watcher.cancel()
        await settle()
        assert child.exit is None
        await supervisor.terminate_child("a")
        down = await other
        assert down == await monitor
        assert down.exit is not None
        assert down.exit.is_requested


@pytest.mark.asyncio
async def test_a_child_cancelled_before_its_first_step_is_reported() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        starting = asyncio.create_task(supervisor.start_child(puppet.spec(Restart.TEMPORARY)))
        child = await appears(supervisor, "a")
        child.task.cancel()
        down = await supervisor.monitor(child)
        await starting
        assert down.exit is not None
        assert (puppet.log, down.exit.ending, down.exit.kind) == ([], Ending.CANCELLED, ExitKind.ERROR)


@pytest.mark.asyncio
async def test_waiting_for_a_child_gives_its_exit_and_not_its_exception() -> None:
    puppet = Puppet("a")
    async with Supervisor() as supervisor:
        child = await supervisor.start_child(puppet.spec(Restart.TEMPORARY))
        await puppet.fail(ValueError())
        assert (await child.wait()).kind is ExitKind.ERROR


@pytest.mark.asyncio
async def test_a_child_that_has_failed_by_itself_is_not_taken_for_one_that_was_asked_to_stop() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await settle()
    child = Child(ChildSpec("a", fail), task)
    child.ask_to_stop()
    exit = await child.wait()
    assert (exit.kind, exit.is_requested) == (ExitKind.ERROR, False)
