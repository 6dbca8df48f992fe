"""What every test shares: one hypothesis profile, and a score of planted bugs that is printed at the end."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import settings

# A loaded machine is slow now and then; that is no reason to call a property broken.
settings.register_profile("rotor_actors", deadline=None)
settings.load_profile("rotor_actors")

_PLANTED = "planted bug"


@pytest.fixture
def score(record_property: Callable[[str, object], None]) -> Callable[[str, str, int], None]:
    """Notes a planted bug, what found it ("" if nothing did), and in how many universes.

    It goes into the report of the test, which reaches the summary from another process, too.
    """

    def note(name: str, found_by: str, universes: int) -> None:
        record_property(_PLANTED, (name, found_by, universes))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for each in terminalreporter.stats.values() for report in each]
    calls = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    told = [value for call in calls for name, value in call.user_properties if name == _PLANTED]
    scores = sorted(cast("list[tuple[str, str, int]]", told))
    if not scores:
        return
    terminalreporter.section("planted bugs")
    for name, found_by, universes in scores:
        how = found_by.splitlines()[0][:70] if found_by else "NOT FOUND"
        terminalreporter.write_line(f"{name:50} universe {universes:3}  {how}")
    found = sum(1 for _, found_by, _ in scores if found_by)
    terminalreporter.write_line(f"{found} of {len(scores)} planted bugs were found")


if "ROTOR_TEST_STORE" in os.environ:

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("one_owner"):
                item.add_marker(pytest.mark.skip(f"on a store that replicas share: {mark.args[0]}"))


if os.environ.get("ROTOR_TEST_STORE") == "postgres":
    # The tests of the runtime say `MemoryStore` where any store would do. With this they say it of PostgreSQL.
    from postgres_stand_in import StandInStore
    from shared_stand_in import end_with_the_first_life

    import rotor_actors
    import rotor_actors.runtime

    end_with_the_first_life()
    for module in (rotor_actors, rotor_actors.runtime):
        vars(module)["MemoryStore"] = StandInStore

    def _is_late(*_: object) -> None:
        raise TimeoutError("the test hangs")

    @pytest.fixture(autouse=True)
    def _one_test() -> Iterator[None]:
        """It does not keep the others waiting for ever."""
        before = signal.signal(signal.SIGALRM, _is_late)
        signal.alarm(60)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if os.environ.get("ROTOR_TEST_STORE") == "shared":
    # The same with the model of a shared database.
    from shared_stand_in import OnlyReplica, end_with_the_first_life

    import rotor_actors
    import rotor_actors.runtime

    end_with_the_first_life()
    for module in (rotor_actors, rotor_actors.runtime):
        vars(module)["MemoryStore"] = OnlyReplica
