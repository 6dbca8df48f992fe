"""The small examples do what they say. Each also runs on a file, as a reader's own copy would."""

import asyncio
import subprocess
import sys
from pathlib import Path

import after_the_end
import bookings
import error_matrix
import fan_out
import fastapi_lifespan
import heavy_steps
import mapping
import new_version
import nightly
import orders_by_event
import pipeline
import pytest
import sub_agents
import trip

EXAMPLES = Path(pipeline.__file__).parent
SMALL = [
    "after_the_end", "bookings", "error_matrix", "fan_out", "fastapi_lifespan", "heavy_steps", "mapping",
    "new_version", "nightly", "orders_by_event", "pipeline", "sub_agents", "trip",
]  # fmt: skip


def test_bookings_are_made_once_each_and_the_run_goes_on_where_it_failed(tmp_path: Path) -> None:
    balances = asyncio.run(bookings.main(tmp_path / "store.db"))
    assert balances == {"alice": 100, "bank": 50, "bob": 100, "carol": 100}


def test_failed_imports_are_resumed_forked_and_deleted(tmp_path: Path) -> None:
    results = asyncio.run(after_the_end.main(tmp_path / "store.db"))
    assert results == ["50 prices of north", "50 prices of south", "40 prices of west", "50 prices of north"]
    assert after_the_end.outside.fetched.count("north") == 2


def test_pipeline_hands_each_result_to_the_next_stage(tmp_path: Path) -> None:
    summary = asyncio.run(pipeline.main(tmp_path / "store.db"))
    assert summary == pipeline.Summary("Actors have a mailbox", "A supervisor looks after actors", words=12)


def test_fan_out_reports_the_child_that_failed_beside_those_that_did_not(tmp_path: Path) -> None:
    report = asyncio.run(fan_out.main(tmp_path / "store.db"))
    assert [profile.domain for profile in report.profiles] == [
        "acme.test",
        "globex.test",
        "initech.test",
        "umbrella.test",
    ]
    assert report.missing == ["no such company: 'no such company' is not a domain"]


def test_a_trip_over_its_budget_is_taken_back(tmp_path: Path) -> None:
    trip.LOG.clear()
    assert asyncio.run(trip.main(tmp_path / "store.db")) == (40.0, "balloon, car, hotel")
    assert "BudgetExceededError" in trip.LOG
    assert trip.LOG[-3:] == ["took back balloon", "took back car", "took back hotel"]


def test_agents_delegate_to_themselves_and_to_a_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = asyncio.run(sub_agents.main(tmp_path / "store.db"))
    assert answer.agents == 7  # five researchers in a tree of depth three, two writers
    assert answer.text.count("see OTP") == 3
    assert "    researcher research which of them restarts which: completed" in capsys.readouterr().out


def test_error_matrix_shows_failure_timeout_and_cancellation(tmp_path: Path) -> None:
    assert asyncio.run(error_matrix.main(tmp_path / "store.db")) == [
        "divide failed: ZeroDivisionError: division by zero",
        "gave up waiting, then: done after 0.4 s",
        "booking was cancelled, 1 run with it, rooms still booked: 0",
    ]


def test_fastapi_application_starts_a_run_and_awaits_its_result(tmp_path: Path) -> None:
    seen = asyncio.run(fastapi_lifespan.main(tmp_path / "orders.db"))
    assert seen == {"receipt": {"item": "tea", "total_cents": 750}, "unknown": 404}


def test_orders_wait_for_events_and_signals(tmp_path: Path) -> None:
    assert asyncio.run(orders_by_event.main(tmp_path / "orders.db")) == [
        "cancelled: event 'order.cancelled'",
        "parcel of piano",
        "parcel of tea",
        "piano is on its way",
        "tea is on its way",
    ]


def test_the_nightly_job_runs_once_a_night_and_makes_up_for_what_it_missed(tmp_path: Path) -> None:
    assert asyncio.run(nightly.main(tmp_path / "nightly.db")) == [
        "backup of Fri 29 Mar, 02:30",
        "backup of Mon 01 Apr, 02:30",
        "backup of Tue 02 Apr, 02:30",
        "backup of Wed 03 Apr, 02:30",
        "backup of Thu 04 Apr, 02:30",
    ]
    assert asyncio.run(nightly.main())[:2] == ["backup of Fri 29 Mar, 02:30", "backup of Sat 30 Mar, 02:30"]


def test_a_map_goes_on_past_pages_that_are_gone_and_the_index_beside_it_is_joined(tmp_path: Path) -> None:
    assert asyncio.run(mapping.main(tmp_path / "store.db")) == "45 pages, 5 gone, one of 16 characters, index"


def test_a_new_version_is_checked_and_runs_under_way_keep_to_the_old_order(tmp_path: Path) -> None:
    too_simple, mended, results = asyncio.run(new_version.main(tmp_path / "store.db"))
    assert [text.split(" of ")[0] for text in too_simple] == ["under way: run under way"]
    assert "'reserve'" in too_simple[0]
    assert mended == []
    assert results == {
        "under way": ["a book: reserved", "a book: paid"], "new": ["a lamp: paid", "a lamp: reserved"]
    }  # fmt: skip


def test_heavy_steps_are_counted_elsewhere_and_a_crash_there_ends_no_more_than_its_step(tmp_path: Path) -> None:
    assert asyncio.run(heavy_steps.main(tmp_path / "store.db")) == (2262, "survived")


@pytest.mark.parametrize("name", SMALL)
def test_example_runs_as_a_script_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    script = EXAMPLES / f"{name}.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted([*SMALL, "code_survey", "flow_control"])
