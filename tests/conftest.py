"""What every test shares: one hypothesis profile, and a score of planted bugs that is printed at the end."""

import os
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import settings

# A loaded machine is slow now and then; that is no reason to call a property broken.
settings.register_profile("rotor_actors", deadline=None)
settings.load_profile("rotor_actors")

_SCORES = pytest.StashKey[list[tuple[str, str, int]]]()


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Callable[[str, str, int], None]:
    """Notes a planted bug, what found it ("" if nothing did), and in how many universes."""
    scores = request.config.stash.setdefault(_SCORES, [])

    def note(name: str, found_by: str, universes: int) -> None:
        scores.append((name, found_by, universes))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _SCORES not in config.stash:
        return
    scores = config.stash[_SCORES]
    terminalreporter.section("planted bugs")
    for name, found_by, universes in scores:
        how = found_by.splitlines()[0][:70] if found_by else "NOT FOUND"
        terminalreporter.write_line(f"{name:50} universe {universes:3}  {how}")
    found = sum(1 for _, found_by, _ in scores if found_by)
    terminalreporter.write_line(f"{found} of {len(scores)} planted bugs were found")


if os.environ.get("ROTOR_TEST_STORE") == "postgres":
    # The tests of the runtime say `MemoryStore` where any store would do. With this they say it of PostgreSQL.
    from postgres_kit import StandInStore

    import rotor_actors
    import rotor_actors.runtime

    for module in (rotor_actors, rotor_actors.runtime):
        vars(module)["MemoryStore"] = StandInStore

    @pytest.fixture(autouse=True)
    def _first_schema_again() -> None:
        StandInStore.numbers = count(1)
