"""The two tables of OTP's rules, line by line."""

from __future__ import annotations

import pytest

from supervisors import (
    STOPPED,
    Decision,
    Ending,
    Exit,
    ExitKind,
    ExitShutdown,
    Restart,
    Strategy,
    affected,
    classify,
    decide,
)

NORMAL = Exit(ExitKind.NORMAL, Ending.RETURNED)
SHUTDOWN = Exit(ExitKind.SHUTDOWN, Ending.RAISED, ExitShutdown())
ERROR = Exit(ExitKind.ERROR, Ending.RAISED, ValueError())


@pytest.mark.parametrize(
    ("restart", "exit", "decision"),
    [
        (Restart.PERMANENT, NORMAL, Decision.RESTART),
        (Restart.PERMANENT, SHUTDOWN, Decision.RESTART),
        (Restart.PERMANENT, ERROR, Decision.RESTART),
        (Restart.PERMANENT, STOPPED, Decision.KEEP),
        (Restart.TRANSIENT, NORMAL, Decision.KEEP),
        (Restart.TRANSIENT, SHUTDOWN, Decision.KEEP),
        (Restart.TRANSIENT, ERROR, Decision.RESTART),
        (Restart.TRANSIENT, STOPPED, Decision.KEEP),
        (Restart.TEMPORARY, NORMAL, Decision.FORGET),
        (Restart.TEMPORARY, SHUTDOWN, Decision.FORGET),
        (Restart.TEMPORARY, ERROR, Decision.FORGET),
        (Restart.TEMPORARY, STOPPED, Decision.FORGET),
    ],
)
def test_what_becomes_of_a_child_follows_its_restart_type_and_its_exit(
    restart: Restart, exit: Exit, decision: Decision
) -> None:
    assert decide(restart, exit) is decision


@pytest.mark.parametrize(
    ("ending", "error", "kind"),
    [
        (Ending.RETURNED, None, ExitKind.NORMAL),
        (Ending.RAISED, ValueError(), ExitKind.ERROR),
        (Ending.RAISED, ExitShutdown(), ExitKind.SHUTDOWN),
        (Ending.CANCELLED, None, ExitKind.ERROR),
    ],
)
def test_an_end_nobody_asked_for_is_judged_by_how_it_came(
    ending: Ending, error: BaseException | None, kind: ExitKind
) -> None:
    assert classify(ending, error, is_requested=False) is kind


@pytest.mark.parametrize("ending", list(Ending))
def test_an_end_that_was_asked_for_is_a_shutdown_however_it_came(ending: Ending) -> None:
    assert classify(ending, ValueError(), is_requested=True) is ExitKind.SHUTDOWN


@pytest.mark.parametrize(
    ("strategy", "ids"),
    [
        (Strategy.ONE_FOR_ONE, ["b"]),
        (Strategy.REST_FOR_ONE, ["b", "c", "d"]),
        (Strategy.ONE_FOR_ALL, ["a", "b", "c", "d"]),
    ],
)
def test_the_strategy_says_who_is_restarted_along(strategy: Strategy, ids: list[str]) -> None:
    assert list(affected(strategy, ["a", "b", "c", "d"], "b")) == ids
