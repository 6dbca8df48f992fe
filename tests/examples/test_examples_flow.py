"""The example of flow control does what it says."""

import asyncio
import subprocess
import sys
from pathlib import Path

import flow_control


def test_orders_wait_for_their_customer_in_order_of_priority_and_labels_are_gathered(tmp_path: Path) -> None:
    report = asyncio.run(flow_control.main(tmp_path / "store.db"))
    assert report.waiting == ["cup", "tea", "pot"]
    assert report.delivered == ["jam to bob", "cup to ada", "tea to ada", "pot to ada"]
    assert sum(report.labels) == 4


def test_the_example_runs_as_a_script_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = Path(flow_control.__file__)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "waiting: cup, tea, pot" in done.stdout
    assert not list(tmp_path.iterdir())
