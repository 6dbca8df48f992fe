"""One writer: what is appended during a commit is the next commit; effects wait for their past, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest
import pytest_asyncio
from conformance import a_run, a_step, changed

from rotor_actors import Context, MemoryStore, RetryPolicy, Runtime, workflow
from rotor_actors.errors import StoreError
from rotor_actors.journal import ENTRIES_PER_COMMIT, Journal
from rotor_actors.records import Entry, RunCreated, RunRested, StepRecorded

pytestmark = pytest.mark.asyncio

T = TypeVar("T")


class HeldStore(MemoryStore):
    """Notes what each commit holds."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[int]] = []
        self.rests: list[list[int]] = []
        self.failure: Exception | None = None

    def commit(self, entries: list[Entry]) -> None:
        if self.failure is not None:
            raise self.failure
        super().commit(entries)
        self.commits.append([entry.seq for entry in entries if not isinstance(entry, RunRested)])
        self.rests.append([entry.n for entry in entries if isinstance(entry, RunRested)])


class HeldExecutor:
    """Makes each call when the test lets it."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def call(self, function: Callable[[], T]) -> T:
        permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.put_nowait(permit)
        await permit
        return function()

    async def let_one(self) -> None:
        """Let the next commit be made, and its effects begin."""
        (await self.calls.get()).set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)

    def close(self) -> None: ...


class Bench:
    """A journal with its writer, and the effects that it began."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.executor = HeldExecutor()
        self.begun: list[str] = []
        self.failures: list[StoreError] = []
        self.journal = Journal(self.store, self.executor, 0, self._start, self._release, self.failures.append)
        self._n = 0

    def _start(self, effect: Callable[[], None]) -> None:
        effect()

    def _release(self, effects: list[Callable[[], None]]) -> None:
        for effect in effects:
            effect()

    def append(self, count: int = 1) -> int:
        for _ in range(count):
            self._n += 1
            self.journal.append(RunCreated(a_run(self._n)))
        return self.journal.last_seq

    def effect(self, seq: int, name: str) -> None:
        self.journal.when_durable(seq, lambda: self.begun.append(f"{name} at {self.journal.durable_seq}"))


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    writer = asyncio.ensure_future(bench.journal.serve())
    yield bench
    writer.cancel()
    await asyncio.wait([writer])


async def test_what_is_appended_during_a_commit_is_one_next_commit(bench: Bench) -> None:
    bench.append()
    bench.journal.kick()
    await asyncio.sleep(0)
    for _ in range(300):
        bench.append()
        bench.journal.kick()
    await bench.executor.let_one()
    await bench.executor.let_one()
    assert bench.store.commits == [[1], list(range(2, 302))]
    assert bench.journal.is_idle


async def test_a_commit_is_bounded_and_commits_are_in_the_order_of_appending(bench: Bench) -> None:
    total = 2 * ENTRIES_PER_COMMIT + 17
    bench.append(total)
    bench.journal.kick()
    for _ in range(3):
        await bench.executor.let_one()
    assert [len(commit) for commit in bench.store.commits] == [ENTRIES_PER_COMMIT, ENTRIES_PER_COMMIT, 17]
    assert [seq for commit in bench.store.commits for seq in commit] == list(range(1, total + 1))


async def test_effects_begin_with_the_commit_that_holds_their_past(bench: Bench) -> None:
    bench.append(ENTRIES_PER_COMMIT + 5)
    bench.effect(3, "early")
    bench.effect(ENTRIES_PER_COMMIT, "last of the first")
    bench.effect(ENTRIES_PER_COMMIT + 1, "first of the second")
    bench.effect(ENTRIES_PER_COMMIT + 5, "late")
    bench.journal.kick()
    await asyncio.sleep(0)
    assert bench.begun == []
    await bench.executor.let_one()
    assert bench.begun == [f"early at {ENTRIES_PER_COMMIT}", f"last of the first at {ENTRIES_PER_COMMIT}"]
    await bench.executor.let_one()
    end = ENTRIES_PER_COMMIT + 5
    assert bench.begun[2:] == [f"first of the second at {end}", f"late at {end}"]
    bench.effect(end, "at once")
    assert bench.begun[4:] == [f"at once at {end}"]


async def test_an_effect_that_comes_during_the_commit_of_its_past_begins_with_it(bench: Bench) -> None:
    """It once went to the next batch, which may stay empty for ever."""
    seq = bench.append()
    bench.journal.kick()
    await asyncio.sleep(0)
    bench.effect(seq, "waiting")
    waiter = asyncio.ensure_future(bench.journal.durable(seq))
    await asyncio.sleep(0)
    await bench.executor.let_one()
    assert bench.begun == ["waiting at 1"]
    assert waiter.done()


async def test_rests_are_written_with_a_commit_that_holds_what_they_have_seen(bench: Bench) -> None:
    bench.append(2)
    bench.journal.note_rest(1, 1, None)
    bench.journal.kick()
    await asyncio.sleep(0)
    bench.append()
    bench.journal.note_rest(2, 3, 7.5)
    await bench.executor.let_one()
    await bench.executor.let_one()
    assert bench.store.commits == [[1, 2], [3]]
    assert bench.store.rests == [[1], [2]]
    bench.journal.note_rest(1, 3, 9.5)
    bench.journal.kick()
    await bench.executor.let_one()
    assert bench.store.rests == [[1], [2], [1]]
    assert bench.store.last_numbers() == (3, 3)


async def test_all_who_wait_for_a_failed_commit_are_told_and_no_effect_begins(bench: Bench) -> None:
    first = bench.append()
    bench.effect(first, "first")
    waiters = [asyncio.ensure_future(bench.journal.durable(first)) for _ in range(3)]
    await asyncio.sleep(0)
    second = bench.append()
    bench.effect(second, "second")
    waiters.append(asyncio.ensure_future(bench.journal.durable(second)))
    await asyncio.sleep(0)
    bench.store.failure = StoreError("the disk is gone")
    await bench.executor.let_one()
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the disk is gone"] * 4
    assert [str(error) for error in bench.failures] == ["the disk is gone"]
    bench.effect(first, "later")
    with pytest.raises(StoreError, match="the disk is gone"):
        await bench.journal.durable(first)
    assert bench.begun == []
    assert bench.executor.calls.empty()


async def test_a_waiter_that_is_cancelled_leaves_the_others_waiting(bench: Bench) -> None:
    seq = bench.append()
    waiters = [asyncio.ensure_future(bench.journal.durable(seq)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    await bench.executor.let_one()
    assert [waiter.cancelled() for waiter in waiters] == [False, True, False]
    assert waiters[0].done()


async def test_a_batch_of_steps_and_runs_keeps_each_entrys_number(bench: Bench) -> None:
    bench.append()
    step = a_step(1, bench.journal.next_seq)
    assert bench.journal.append(StepRecorded(step)) == step.seq == 2
    bench.journal.kick()
    await bench.executor.let_one()
    assert bench.store.steps(1) == [step]
    assert bench.store.find("run-1") == changed(a_run(1))


# In a runtime


class WatchedStore(MemoryStore):
    """Says how far it has committed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def commit(self, entries: list[Entry]) -> None:
        super().commit(entries)
        self.sizes.append(len(entries))


committed_before: list[bool] = []
watched: list[WatchedStore] = []


async def look(run_id: str) -> None:
    committed_before.append(watched[-1].find(run_id) is not None)


@workflow(id="looking-child")
async def looking_child(ctx: Context, i: int) -> None:
    await ctx.step.run("look", look, ctx.run_id)


@workflow(id="looking")
async def looking(ctx: Context, n: int) -> None:
    ends = [ctx.step.invoke(f"{i}", workflow=looking_child, data=i, timeout="1h") for i in range(n)]
    await asyncio.gather(*ends)


async def test_a_fan_out_takes_a_handful_of_commits_and_no_step_runs_before_its_run_is_stored() -> None:
    watched.append(WatchedStore())
    committed_before.clear()
    async with Runtime(watched[-1]) as runtime:
        await runtime.execute(looking, 3_000)
    assert committed_before == [True] * 3_000
    assert max(watched[-1].sizes) <= ENTRIES_PER_COMMIT
    # How many depends on how fast the machine is: far fewer than the 9 000 entries, in any case.
    assert sum(watched[-1].sizes) / len(watched[-1].sizes) > 5


@workflow(id="retried", retries=RetryPolicy(max_retries=5, initial="2h", maximum="2h", jitter=False))
async def retried(ctx: Context) -> None:
    if ctx.attempt == 1:
        await ctx.step.invoke("child", workflow=quick_child, data=None, timeout="1h")
        raise ValueError("not yet")


@workflow(id="quick-child")
async def quick_child(ctx: Context) -> None:
    return None


async def test_a_rest_noted_before_an_attempt_failed_does_not_undo_when_the_next_is_due() -> None:
    """Written after the change, in one commit, it had the next attempt begin when the child would have timed out."""
    store = MemoryStore()
    async with Runtime(store, drain_timeout=0) as runtime:
        await runtime.start(retried, run_id="it")
        while (found := store.find("it")) is None or found.attempt == 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
    found = store.find("it")
    assert found is not None
    assert found.attempt_at is None
    assert found.wake_at is not None
    assert found.wake_at >= found.created_at + 7_200
