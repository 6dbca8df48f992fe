"""The child table, over handles it knows nothing of."""

from __future__ import annotations

import sys

import pytest

from supervisors import (
    STOPPED,
    ChildExistsError,
    ChildNotFoundError,
    ChildState,
    ChildTable,
    Decision,
    Ending,
    Exit,
    ExitKind,
    Restart,
    RestartPlan,
    Strategy,
)

ERROR = Exit(ExitKind.ERROR, Ending.RAISED, ValueError())


def table_of(**restarts: Restart) -> ChildTable[str]:
    """A table in which a child's handle is its id in capitals."""
    table: ChildTable[str] = ChildTable()
    for child_id, restart in restarts.items():
        table.add(child_id, child_id.upper(), restart)
    return table


def test_shutdown_goes_newest_first_and_start_oldest_first() -> None:
    table = table_of(a=Restart.PERMANENT, b=Restart.TEMPORARY, c=Restart.TRANSIENT)
    assert list(table.shutdown_order()) == ["C", "B", "A"]
    assert list(table.start_order()) == ["A", "B", "C"]


def test_children_that_end_during_a_shutdown_are_left_out_and_new_ones_do_not_come_in() -> None:
    table = table_of(a=Restart.TEMPORARY, b=Restart.TEMPORARY, c=Restart.TEMPORARY)
    order = table.shutdown_order()
    assert next(order) == "C"
    table.ended("b", STOPPED)
    table.add("d", "D")
    assert list(order) == ["A"]


def test_a_temporary_child_that_ends_is_forgotten_and_its_id_is_free_again() -> None:
    table = table_of(a=Restart.TEMPORARY)
    assert table.ended("a", ERROR) is Decision.FORGET
    assert (len(table), "a" in table, table.get("a")) == (0, False, None)
    table.add("a", "again")
    assert table.get("a") == "again"


def test_a_permanent_child_that_ends_is_restarting_until_it_is_started() -> None:
    table = table_of(a=Restart.PERMANENT)
    assert table.ended("a", ERROR) is Decision.RESTART
    assert table.state("a") is ChildState.RESTARTING
    table.started("a")
    assert table.state("a") is ChildState.RUNNING


def test_a_child_that_was_stopped_stays_terminated_in_its_place() -> None:
    table = table_of(a=Restart.PERMANENT, b=Restart.PERMANENT)
    assert table.ended("a", STOPPED) is Decision.KEEP
    assert table.state("a") is ChildState.TERMINATED
    table.started("a")
    assert list(table.start_order()) == ["A", "B"]


@pytest.mark.parametrize("is_running", [True, False])
def test_an_id_is_taken_by_a_running_child_and_by_an_ended_one(is_running: bool) -> None:
    table = table_of(a=Restart.PERMANENT)
    if not is_running:
        table.ended("a", STOPPED)
    with pytest.raises(ChildExistsError) as caught:
        table.add("a", "other")
    assert caught.value.is_running is is_running
    assert table.get("a") == "A"


def test_a_removed_child_is_gone_with_its_specification() -> None:
    table = table_of(a=Restart.PERMANENT)
    assert table.remove("a") == "A"
    table.add("a", "other")
    assert table.ended("a", ERROR) is Decision.FORGET


def test_unknown_children_are_named() -> None:
    table = table_of(a=Restart.TEMPORARY)
    for ask in (
        lambda: table.remove("nobody"),
        lambda: table.state("nobody"),
        lambda: table.started("nobody"),
        lambda: table.ended("nobody", ERROR),
        lambda: table.plan(Strategy.ONE_FOR_ALL, "nobody"),
    ):
        with pytest.raises(ChildNotFoundError, match="'nobody'"):
            ask()


@pytest.mark.parametrize(
    ("strategy", "stop", "start"),
    [
        (Strategy.ONE_FOR_ONE, (), ("B",)),
        (Strategy.REST_FOR_ONE, ("D", "C"), ("B", "D")),
        (Strategy.ONE_FOR_ALL, ("D", "C", "A"), ("A", "B", "D")),
    ],
)
def test_a_restart_stops_newest_first_and_starts_oldest_first_without_the_temporary_ones(
    strategy: Strategy, stop: tuple[str, ...], start: tuple[str, ...]
) -> None:
    table = table_of(a=Restart.PERMANENT, b=Restart.PERMANENT, c=Restart.TEMPORARY, d=Restart.TRANSIENT)
    table.ended("b", ERROR)
    assert table.plan(strategy, "b") == RestartPlan(stop, start)


def test_siblings_that_had_ended_are_not_stopped_but_come_back_as_in_otp() -> None:
    table = table_of(a=Restart.TRANSIENT, b=Restart.PERMANENT)
    table.ended("a", STOPPED)
    table.ended("b", ERROR)
    assert table.plan(Strategy.ONE_FOR_ALL, "b") == RestartPlan(stop=(), start=("A", "B"))


def test_a_table_without_children_costs_next_to_nothing_before_and_after() -> None:
    table = table_of()
    assert sys.getsizeof(table) <= 64
    for number in range(100):
        table.add(number, str(number))
    for number in range(100):
        table.ended(number, STOPPED)
    assert not hasattr(table, "__dict__")
    assert table._handles is None  # pyright: ignore[reportPrivateUsage]  # an emptied dict would keep its size
