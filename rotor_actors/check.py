"""`python -m rotor_actors.check module:app --store STORE`: which unfinished runs would break under the code of today?

It prints a line for each, and ends with 0 when there is none, with 1 when there are some, with 2 when it cannot tell.
The store is only read, also while a live process owns it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from rotor_actors.checking import CheckReport, check_runs
from rotor_actors.errors import RotorError
from rotor_actors.runtime import Runtime
from rotor_actors.workflows import Workflow


def _values_of(module: object) -> list[object]:
    return list(vars(module).values())


def workflows_of(target: str) -> list[Workflow[Any, Any]]:
    """The workflows that `module` holds, or that `module:name` names: a workflow, several, or a runtime.

    Raises:
        ValueError: there are none.
    """
    module_name, _, path = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module_name)
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    held: list[object] = [found]
    if isinstance(found, Runtime):
        held = list(found.workflows)
    elif not isinstance(found, Workflow):
        held = list(cast("Iterable[object]", found if path else _values_of(found)))
    chosen: list[Workflow[Any, Any]] = [each for each in held if isinstance(each, Workflow)]
    if not chosen:
        raise ValueError(f"{target!r} holds no workflow: name a workflow, a list of them, a Runtime, or their module")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rotor_actors.check", description=__doc__)
    parser.add_argument("target", help="module, or module:name of a workflow, a list of workflows, or a Runtime")
    parser.add_argument("--store", required=True, help="the store: a file, or a URL")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        report = asyncio.run(check_runs(options.store, workflows_of(options.target)))
    except (RotorError, ImportError, AttributeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(msgspec.to_builtins(report)) if options.json else _text(report))
    return 0 if report.is_clean else 1


def _text(report: CheckReport) -> str:
    lines = [
        f"{each.run_id}  {each.workflow_id}{f' (version {each.version})' if each.version else ''}: {each.what}"
        for each in report.broken
    ]
    lines += [
        f"{count} runs of workflow {name!r}, which the code does not hold" for name, count in report.unknown.items()
    ]
    lines += [
        f"{count} runs of workflow {name!r} in version {version!r}, which the code neither has nor takes over: without "
        f"takes_over=({version!r},) they wait for a replica that has it"
        for name, versions in report.pinned.items()
        for version, count in versions.items()
    ]
    lines.append(f"{report.checked} unfinished runs checked, {len(report.broken)} would break")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
