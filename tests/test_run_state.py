"""A run's state machine, as a table: what goes in, which effects come out. No event loop, no clock, no store."""

from __future__ import annotations

from typing import Any

import pytest

from rotor_actors.errors import NonDeterminismError, StepRefusedError
from rotor_actors.ids import step_key
from rotor_actors.messages import (
    Begin,
    Diverged,
    Effect,
    Fire,
    Known,
    MarkMap,
    Message,
    Pending,
    Resolve,
    StepEnded,
    TimerFired,
    Withdraw,
)
from rotor_actors.records import Kind, Outcome, OutcomeStatus
from rotor_actors.run_state import RunState

A, B, C = step_key("a", 0), step_key("b", 0), step_key("c", 0)
DONE = Outcome(OutcomeStatus.COMPLETED, b"done")


def ended(key: bytes, seq: int = 1, outcome: Outcome = DONE) -> StepEnded:
    return StepEnded(key, outcome, seq, 0.0)


def known(kind: Kind = Kind.RUN, target: str = "", outcome: Outcome | None = DONE, step_id: str = "") -> Known:
    return Known(kind, target, outcome, step_id=step_id)


def fresh(**options: Any) -> RunState:
    return RunState("run r of workflow 'w'", **options)


def replaying(record: list[Message], **options: Any) -> RunState:
    """A replay of a record whose steps are all of kind run."""
    recorded = {each.key: known(step_id="s") for each in record if isinstance(each, StepEnded)}
    options["recorded"] = {**recorded, **options.get("recorded", {})}
    return fresh(record=record, replaying=True, **options)


def ask(state: RunState, step_id: str, kind: Kind = Kind.RUN, target: str = "") -> Pending | StepEnded:
    return state.request(step_id, kind, target, None)


def pending(state: RunState, step_id: str, kind: Kind = Kind.RUN, target: str = "") -> Pending:
    asked = ask(state, step_id, kind, target)
    assert isinstance(asked, Pending)
    return asked


def shown(effects: list[Effect]) -> list[str]:
    """Effects in short: `Begin a`, `Resolve a`, `Fire 3`."""
    texts: list[str] = []
    for effect in effects:
        match effect:
            case Begin() | Resolve() | Withdraw():
                texts.append(f"{type(effect).__name__} {effect.pending.step_id}")
            case Fire():
                texts.append(f"Fire {effect.number}")
            case Diverged():
                texts.append(f"Diverged: {effect.what}")
            case MarkMap():
                texts.append(f"MarkMap {effect.step_id}")
    return texts


# Live


def test_a_step_that_is_asked_for_begins() -> None:
    state = fresh()
    asked = pending(state, "a", Kind.INVOKE, "w")
    assert (asked.key, asked.step_id, asked.kind, asked.target) == (A, "a", Kind.INVOKE, "w")
    assert shown(state.take_effects()) == ["Begin a"]


def test_effects_are_taken_once() -> None:
    state = fresh()
    ask(state, "a")
    assert state.take_effects()
    assert state.take_effects() == []


def test_each_use_of_an_id_has_a_key_of_its_own() -> None:
    state = fresh()
    assert [pending(state, "a").key for _ in range(3)] == [step_key("a", count) for count in range(3)]


def test_an_outcome_resolves_what_waits_for_it() -> None:
    state = fresh()
    asked = pending(state, "a")
    state.take_effects()
    state.apply(ended(A))
    assert state.take_effects() == [Resolve(asked, ended(A))]
    assert list(state.pending) == []


@pytest.mark.parametrize("message", [ended(B), TimerFired(0, 1, 0.0)])
def test_other_messages_leave_it_waiting(message: Message) -> None:
    state = fresh()
    asked = pending(state, "a")
    state.apply(message)
    assert state.is_pending(A) is asked


def test_an_outcome_told_twice_changes_nothing() -> None:
    state = fresh()
    ask(state, "a")
    state.apply(ended(A))
    state.take_effects()
    state.apply(ended(A))
    assert state.take_effects() == []


def test_a_timer_is_fired_by_its_number() -> None:
    state = fresh()
    state.apply(TimerFired(7, 1, 0.0))
    assert shown(state.take_effects()) == ["Fire 7"]


def test_what_is_withdrawn_is_waited_for_no_longer() -> None:
    state = fresh()
    ask(state, "a")
    state.take_effects()
    state.withdraw(A)
    assert shown(state.take_effects()) == ["Withdraw a"]
    state.apply(ended(A))
    assert state.take_effects() == []


def test_withdrawing_what_has_an_outcome_or_was_never_asked_for_changes_nothing() -> None:
    state = fresh()
    ask(state, "a")
    state.apply(ended(A))
    state.take_effects()
    state.withdraw(A)
    state.withdraw(B)
    assert state.take_effects() == []


def test_once_refused_no_step_may_be_called_and_nothing_is_withdrawn() -> None:
    state = fresh()
    ask(state, "a")
    state.take_effects()
    state.refuse("the attempt has ended")
    with pytest.raises(StepRefusedError, match=r"run r of workflow 'w': step 'b' refused: the attempt has ended"):
        ask(state, "b")
    state.withdraw(A)
    assert state.take_effects() == []


# Memo


def test_a_memo_answers_at_once_and_nothing_begins() -> None:
    state = fresh(memo={A: Known(Kind.INVOKE, "w", DONE, "child", "w")})
    assert ask(state, "a", Kind.INVOKE, "w") == StepEnded(A, DONE, 0, 0.0, "child", "w")
    assert state.take_effects() == []


def test_a_memo_of_the_first_use_says_nothing_of_the_second() -> None:
    state = fresh(memo={A: known()})
    ask(state, "a")
    assert isinstance(ask(state, "a"), Pending)


def test_a_child_that_still_runs_is_asked_for_again_and_known_to_be_spawned() -> None:
    state = fresh(memo={A: known(Kind.INVOKE, "w", None)})
    assert pending(state, "a", Kind.INVOKE, "w").is_spawned
    assert not pending(state, "b", Kind.INVOKE, "w").is_spawned
    assert shown(state.take_effects()) == ["Begin a", "Begin b"]


def test_a_child_that_ends_before_it_is_asked_for_again_is_remembered() -> None:
    state = fresh(memo={A: known(Kind.INVOKE, "w", None)})
    state.apply(ended(A))
    assert isinstance(ask(state, "a", Kind.INVOKE, "w"), StepEnded)
    assert state.take_effects() == []


KINDS = [(Kind.RUN, ""), (Kind.SLEEP, ""), (Kind.INVOKE, "w"), (Kind.INVOKE, "other")]


@pytest.mark.parametrize("recorded", KINDS)
@pytest.mark.parametrize("asked", KINDS)
@pytest.mark.parametrize("where", ["memo", "record", "running"])
def test_another_kind_or_target_under_a_recorded_key_is_refused(
    recorded: tuple[Kind, str], asked: tuple[Kind, str], where: str
) -> None:
    match where:
        case "memo":
            state = fresh(memo={A: known(*recorded)})
        case "record":
            state = replaying([ended(A)], recorded={A: known(*recorded)})
        case _:
            state = replaying([], recorded={A: known(*recorded, None)})
    if recorded == asked:
        ask(state, "a", *asked)
    else:
        with pytest.raises(
            NonDeterminismError, match=r"run r of workflow 'w': step 'a' \(use 0\) is an? .*recorded an? "
        ):
            ask(state, "a", *asked)
        assert state.take_effects() == []


# Replay


def test_in_a_replay_nothing_begins() -> None:
    state = replaying([ended(A)])
    ask(state, "a")
    ask(state, "b")
    assert state.take_effects() == []
    assert state.replaying


def test_outcomes_of_record_are_handed_out_one_by_one_in_their_order() -> None:
    state = replaying([ended(B, 1), ended(A, 2)])
    ask(state, "a")
    ask(state, "b")
    for expected in ("b", "a"):
        message = state.next_recorded(0)
        assert message is not None
        state.apply(message)
        assert shown(state.take_effects()) == [f"Resolve {expected}"]


def test_when_the_record_is_exhausted_what_is_unanswered_begins_in_the_order_it_was_asked_for() -> None:
    state = replaying([ended(B)])
    for step_id in ("c", "b", "a"):
        ask(state, step_id)
    message = state.next_recorded(0)
    assert message is not None
    state.apply(message)
    state.take_effects()
    assert state.next_recorded(0) is None
    assert not state.replaying
    assert shown(state.take_effects()) == ["Begin c", "Begin a"]
    ask(state, "d")
    assert shown(state.take_effects()) == ["Begin d"]


def test_a_timer_of_record_is_due_once_the_body_has_set_it() -> None:
    state = replaying([TimerFired(0, 1, 0.0)])
    assert state.next_recorded(1) == TimerFired(0, 1, 0.0)


def test_what_is_withdrawn_in_a_replay_never_begins() -> None:
    state = replaying([])
    ask(state, "a")
    state.withdraw(A)
    state.next_recorded(0)
    assert state.take_effects() == []


def test_a_child_that_was_spawned_before_the_crash_is_withdrawn_in_a_replay_too() -> None:
    state = replaying([], recorded={A: known(Kind.INVOKE, "w", None)})
    ask(state, "a", Kind.INVOKE, "w")
    state.withdraw(A)
    assert shown(state.take_effects()) == ["Withdraw a"]


def test_the_memo_answers_in_a_replay_too() -> None:
    state = replaying([ended(B)], memo={A: known()})
    assert isinstance(ask(state, "a"), StepEnded)


def test_an_outcome_of_record_that_was_withdrawn_since_changes_nothing() -> None:
    state = replaying([ended(A)])
    ask(state, "a")
    state.withdraw(A)
    assert state.next_recorded(0) == ended(A)
    state.apply(ended(A))
    assert state.take_effects() == []
    assert state.next_recorded(0) is None


# A child that an earlier attempt left running


def test_an_inherited_child_whose_end_is_next_in_the_record_answers_later_and_the_run_has_not_diverged() -> None:
    state = replaying([ended(A, 1), ended(B, 2)], recorded={A: known(Kind.INVOKE, "w")}, inherited=[A], strict=True)
    ask(state, "b")
    assert state.next_recorded(0) == ended(B, 2)
    assert isinstance(ask(state, "a", Kind.INVOKE, "w"), StepEnded)
    assert state.take_effects() == []


def test_a_running_child_that_was_not_asked_for_in_the_replay_is_known_when_live() -> None:
    state = replaying([], recorded={A: known(Kind.INVOKE, "w", None)}, inherited=[A])
    assert state.next_recorded(0) is None
    assert pending(state, "a", Kind.INVOKE, "w").is_spawned


# Code that changed


def test_a_record_of_what_was_not_asked_for_marks_the_run_once() -> None:
    state = replaying([ended(A, 1), ended(C, 2), ended(B, 3)])
    ask(state, "b")
    assert state.next_recorded(0) == ended(B, 3)
    assert shown(state.take_effects()) == ["Diverged: step 's'"]


def test_after_that_recorded_outcomes_answer_by_key_and_new_steps_begin() -> None:
    state = replaying([ended(A, 1), ended(B, 2)])
    ask(state, "new")
    assert state.next_recorded(0) is None
    assert shown(state.take_effects()) == ["Diverged: step 's'", "Begin new"]
    assert isinstance(ask(state, "b"), StepEnded)
    assert isinstance(ask(state, "a"), StepEnded)
    assert state.take_effects() == []


def test_a_timer_that_was_never_set_marks_the_run() -> None:
    state = replaying([TimerFired(0, 1, 0.0)])
    assert state.next_recorded(0) is None
    assert shown(state.take_effects()) == ["Diverged: a timer"]


@pytest.mark.parametrize(
    ("record", "recorded", "named"),
    [
        ([ended(A)], known(step_id="fetch"), "step 'fetch'"),
        ([ended(A)], known(Kind.INVOKE, "w"), "an invoke of workflow 'w'"),
        ([TimerFired(0, 1, 0.0)], known(), "a timer"),
    ],
)
def test_strict_replay_refuses_it_by_name(record: list[Message], recorded: Known, named: str) -> None:
    state = replaying(record, recorded={A: recorded}, strict=True)
    with pytest.raises(NonDeterminismError, match=f"the outcome of {named}, which the code did not ask for"):
        state.next_recorded(0)
    assert state.take_effects() == []


def test_a_new_step_behind_the_record_is_no_divergence() -> None:
    state = replaying([ended(A)], strict=True)
    ask(state, "a")
    message = state.next_recorded(0)
    assert message is not None
    state.apply(message)
    state.take_effects()
    ask(state, "new")
    assert state.next_recorded(0) is None
    assert shown(state.take_effects()) == ["Begin new"]
