"""Replicas of a shared store, as any of them, and whoever only looks, sees them."""

from __future__ import annotations

import pytest
from dashboard_kit import get, visit

from rotor_actors import Context, Runtime, RuntimeView, workflow
from rotor_actors.records import RunCreated, RunFlag, RunRow, RunsReleased
from rotor_actors.stores.shared import ClaimQuery, Declared
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore, SharedMemoryView

pytestmark = pytest.mark.asyncio


@workflow(id="order")
async def order(ctx: Context) -> None: ...


class Time:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def a_run(store: SharedMemoryStore, count: int, workflow_id: str = "order", **more: object) -> RunRow:
    n = (store.replica << 32) + count
    fields = {"root_n": n, "root_run_id": f"run-{n}", "created_at": 1_700_000_000.0 + count, **more}
    return RunRow(n=n, run_id=f"run-{n}", workflow_id=workflow_id, attempt_at=1_700_000_000.0, **fields)  # type: ignore[arg-type]


def opened(database: SharedDatabase, label: str, *declared: Declared) -> SharedMemoryStore:
    store = SharedMemoryStore(database)
    store.open()
    store.declare(label, list(declared))
    return store


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def database(time: Time) -> SharedDatabase:
    """Two replicas: `web-1` coordinates and owns two orders; `web-2` drains; and three runs that nobody owns."""
    database = SharedDatabase(time)
    one = opened(database, "web-1", Declared("order", ("1", "2")))
    two = opened(database, "web-2", Declared("order"))
    one.claim(ClaimQuery())
    one.commit([RunCreated(a_run(one, count)) for count in (1, 2)])
    spilled, parked = a_run(two, 1), a_run(two, 2)
    old = a_run(two, 3, "bill", version="0")
    two.commit([RunCreated(spilled), RunCreated(parked), RunCreated(old)])
    two.commit([RunsReleased([spilled.n, old.n]), RunsReleased([parked.n], is_parked=True)])
    time.now += 4.0
    two.beat()
    two.drain()
    return database


async def test_each_replica_with_its_lease_its_role_and_what_it_owns(database: SharedDatabase) -> None:
    async with RuntimeView(SharedMemoryView(database)) as view:
        one, two = await view.replicas()
    assert (one.label, one.owned, one.is_coordinator, one.is_draining) == ("web-1", 2, True, False)
    assert (two.label, two.owned, two.is_coordinator, two.is_draining) == ("web-2", 0, False, True)
    assert [round(each.lease_left, 3) for each in (one, two)] == [6.0, 10.0], "by the database's clock"
    assert (one.workflows, two.workflows) == ({"order": ["1", "2"]}, {"order": None})


async def test_runs_that_nobody_owns_first_those_that_nobody_can_run(database: SharedDatabase) -> None:
    async with RuntimeView(SharedMemoryView(database)) as view:
        bills, orders = await view.unowned()
    assert (bills.workflow_id, bills.version, bills.runs, bills.can_run) == ("bill", "0", 1, False)
    assert (orders.workflow_id, orders.runs, orders.parked, orders.can_run) == ("order", 2, 1, True)


async def test_a_run_says_who_owns_it_or_why_nobody_does(database: SharedDatabase, time: Time) -> None:
    async with RuntimeView(SharedMemoryView(database)) as view:
        owned, spilled, old = f"run-{(1 << 32) + 1}", f"run-{(2 << 32) + 1}", f"run-{(2 << 32) + 3}"
        assert [(await view.info(each)).owner for each in (owned, spilled)] == [1, None]
        assert {run.run_id: run.owner for run in await view.runs()}[owned] == 1
        assert (await view.tree(owned)).run.owner == 1
        assert "replica web-1 (1) owns it; 6 s are left of its lease" in await view.why(owned)
        assert "no replica owns it yet" in await view.why(spilled)
        assert "none that is alive can run workflow 'bill' in version '0'" in await view.why(old)
        time.now += 60
        assert "its lease has run out, and others take over" in await view.why(owned)


async def test_a_tree_is_whole_where_a_child_has_a_smaller_number_than_its_parent() -> None:
    database = SharedDatabase()
    one, two = opened(database, "one", Declared("order")), opened(database, "two", Declared("order"))
    top = a_run(two, 1)
    child = a_run(one, 1, root_n=top.n, root_run_id=top.run_id, depth=1, parent_n=top.n, parent_run_id=top.run_id)
    below = a_run(one, 2, root_n=top.n, root_run_id=top.run_id, depth=2, parent_n=child.n, parent_run_id=child.run_id)
    child.flags = below.flags = RunFlag.NONE
    two.commit([RunCreated(top)])
    one.commit([RunCreated(child), RunCreated(below)])
    async with RuntimeView(SharedMemoryView(database)) as view:
        tree = await view.tree(top.run_id)
        assert [each.run.run_id for each in tree.children] == [child.run_id]
        assert [each.run.run_id for each in tree.children[0].children] == [below.run_id]
        nodes = (await get(view.dashboard(), "api/tree", id=top.run_id))["nodes"]
        assert [(node[0], node[1]) for node in nodes] == [(top.run_id, -1), (child.run_id, 0), (below.run_id, 1)]
        assert (await get(view.dashboard(), "api/run", id=child.run_id))["below"] == 1


async def test_the_page_has_all_of_it(database: SharedDatabase) -> None:
    async with RuntimeView(SharedMemoryView(database)) as view:
        shown = await get(view.dashboard(), "api/replicas")
        assert [(each["label"], each["owned"]) for each in shown["replicas"]] == [("web-1", 2), ("web-2", 0)]
        assert sum(each["unowned"] for each in shown["unowned"]) == 3
        assert (await get(view.dashboard(), "api/session"))["is_shared"] is True
        runs = (await get(view.dashboard(), "api/runs"))["runs"]
        assert sorted(run["owner"] for run in runs) == ["", "", "", "web-1 (1)", "web-1 (1)"]
        assert (await get(view.dashboard(), "api/run", id=f"run-{(1 << 32) + 1}"))["run"]["owner"] == "web-1 (1)"


async def test_what_undoes_a_workflow_that_is_shown_is_not_named_beside_it() -> None:
    database = SharedDatabase()
    opened(database, "web-1", Declared("trip"), Declared("trip.undo"), Declared("hotel.undo"))
    async with RuntimeView(SharedMemoryView(database)) as view:
        (replica,) = (await get(view.dashboard(), "api/replicas"))["replicas"]
    assert [each["workflow_id"] for each in replica["declared"]] == ["trip", "hotel.undo"]


@pytest.mark.one_owner("that is what it is about")
async def test_a_store_of_one_owner_has_none() -> None:
    async with Runtime(":memory:") as runtime:
        assert (await runtime.replicas(), await runtime.unowned()) == ([], [])
        assert (await get(runtime.dashboard(), "api/session"))["is_shared"] is False
        async with visit(runtime.dashboard()) as browser:
            assert (await browser.get("api/replicas")).json()["replicas"] == []
