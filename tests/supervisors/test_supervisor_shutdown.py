"""How children are stopped: grace, then force, then without them."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest
from supervisor_kit import Puppet, settle

from supervisors import ChildSpec, Ending, Exit, Restart, Shutdown, ShutdownSpec, Supervisor

GRACE = 0.005


class Stubborn:
    """Refuses a number of cancellations, counting them; `release` lets it go."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.cancellations = 0
        self.release = asyncio.Event()

    async def live(self) -> None:
        while not self.release.is_set():
            try:
                await self.sit_it_out()
            except asyncio.CancelledError:
                self.cancellations += 1
                if self.cancellations > self.refusals:
                    raise

    async def sit_it_out(self) -> None:
        await self.release.wait()


async def terminated(child: Stubborn, shutdown: ShutdownSpec, kill_seconds: float = GRACE) -> Exit | None:
    """Start a child, terminate it, and say how it ended."""
    async with Supervisor(kill_seconds=kill_seconds) as supervisor:
        await supervisor.start_child(ChildSpec("a", child.live, restart=Restart.TEMPORARY, shutdown=shutdown))
        return await supervisor.terminate_child("a")


@pytest.mark.asyncio
async def test_children_are_stopped_newest_first_one_after_the_other() -> None:
    log: list[str] = []
    async with Supervisor() as supervisor:
        for name in "abc":
            await supervisor.start_child(Puppet(name, log).spec())
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


@pytest.mark.asyncio
async def test_a_child_that_cleans_up_within_its_grace_is_cancelled_once() -> None:
    log: list[str] = []

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            log.append("clean")

    async with Supervisor(kill_seconds=GRACE) as supervisor:
        child = await supervisor.start_child(ChildSpec("a", cleans_up, shutdown=5.0))
    assert log == ["clean"]
    assert child.exit is not None
    assert child.exit.ending is Ending.CANCELLED


@pytest.mark.asyncio
async def test_a_clean_up_that_outlasts_its_grace_is_cut_short_by_a_second_cancellation() -> None:
    child = Stubborn(refusals=1)
    exit = await terminated(child, GRACE)
    assert child.cancellations == 2
    assert exit is not None
    assert exit.ending is Ending.CANCELLED


@pytest.mark.asyncio
async def test_brutal_kill_cuts_short_a_clean_up_without_waiting_for_it() -> None:
    child = Stubborn(refusals=3)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    exit = await terminated(child, Shutdown.BRUTAL_KILL)
    assert loop.time() - begun < 1.0
    assert child.cancellations == 4
    assert exit is not None
    assert exit.ending is Ending.CANCELLED


@pytest.mark.asyncio
async def test_infinity_cancels_once_and_waits() -> None:
    child = Stubborn(refusals=1)
    async with Supervisor(kill_seconds=GRACE) as supervisor:
        await supervisor.start_child(ChildSpec("a", child.live, shutdown=Shutdown.INFINITY))
        terminating = asyncio.create_task(supervisor.terminate_child("a"))
        await asyncio.sleep(2 * GRACE)
        assert (child.cancellations, terminating.done()) == (1, False)
        child.release.set()
        exit = await terminating
    assert exit is not None
    assert (exit.ending, exit.is_requested) == (Ending.RETURNED, True)


@pytest.mark.asyncio
async def test_a_child_that_refuses_for_good_is_abandoned_and_reported_with_its_await_chain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = Stubborn(refusals=1_000_000)
    async with Supervisor(kill_seconds=GRACE) as supervisor:
        await supervisor.start_child(ChildSpec("mule", child.live, shutdown=GRACE))
    [stuck] = supervisor.stuck_children()
    assert child.cancellations == 11
    assert stuck.exit is not None
    assert stuck.exit.ending is Ending.ABANDONED
    where = [line.split(" (")[0] for line in stuck.exit.chain]
    assert where == ["Stubborn.live", "Stubborn.sit_it_out", "Event.wait"]
    assert __file__ in stuck.exit.chain[0]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "'mule' is stuck" in line.message
    assert "Stubborn.sit_it_out" in line.message
    child.release.set()
    await settle()
    assert supervisor.stuck_children() == []
    assert stuck.exit.ending is Ending.ABANDONED


@pytest.mark.asyncio
async def test_an_abandoned_child_does_not_keep_its_siblings_from_being_stopped() -> None:
    child, sibling = Stubborn(refusals=1_000_000), Puppet("b")
    async with Supervisor(kill_seconds=GRACE) as supervisor:
        await supervisor.start_child(sibling.spec())
        await supervisor.start_child(ChildSpec("mule", child.live, shutdown=0))
    assert sibling.log == ["+b", "-b"]
    child.release.set()
    await settle()


@pytest.mark.asyncio
async def test_an_abandoned_child_is_held_so_that_it_is_not_collected_while_it_runs() -> None:
    child = Stubborn(refusals=1_000_000)
    async with Supervisor(kill_seconds=GRACE) as supervisor:
        await supervisor.start_child(ChildSpec("mule", child.live, restart=Restart.TEMPORARY, shutdown=0))
    task = weakref.ref(supervisor.stuck_children()[0].task)
    gc.collect()
    assert task() is not None
    child.release.set()
    await settle()


@pytest.mark.asyncio
async def test_what_an_abandoned_child_raises_later_is_no_unretrieved_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = Stubborn(refusals=1_000_000)

    async def refuses_then_fails() -> None:
        await child.live()
        raise ValueError("too late")

    async with Supervisor(kill_seconds=GRACE) as supervisor:
        await supervisor.start_child(ChildSpec("mule", refuses_then_fails, shutdown=0))
    child.release.set()
    await settle()
    del supervisor
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio" and "never" in record.message] == []


@pytest.mark.asyncio
async def test_a_child_that_answers_its_cancellation_with_an_exception_is_stopped_and_the_exception_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("clean-up failed")

    async def fails_to_clean_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise error

    async with Supervisor(max_restarts=0) as supervisor:
        child = await supervisor.start_child(ChildSpec("a", fails_to_clean_up))
    assert child.exit is not None
    assert (child.exit.ending, child.exit.error, child.exit.is_requested) == (Ending.RAISED, error, True)
    lines = [record for record in caplog.records if record.exc_info and record.exc_info[1] is error]
    assert [record.levelname for record in lines] == ["WARNING"]


@pytest.mark.asyncio
async def test_a_child_may_stop_its_own_supervisor() -> None:
    async def last_one_out() -> None:
        await supervisor.stop()

    async with Supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", last_one_out))
        await supervisor.wait()
        assert not supervisor.is_running


@pytest.mark.asyncio
async def test_a_child_that_calls_its_stopping_supervisor_is_refused_rather_than_left_waiting() -> None:
    refused: list[BaseException] = []

    async def calls_while_cleaning_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await supervisor.terminate_child("a")
            except Exception as error:
                refused.append(error)

    async with Supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", calls_while_cleaning_up, shutdown=Shutdown.INFINITY))
    assert "stopping" in str(refused[0])
