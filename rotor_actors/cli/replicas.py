"""`rotor replicas`: who has a shared store open, for how long by its lease, and which runs nobody owns."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import msgspec

from rotor_actors.cli.main import DONE, FAILED, UsageError
from rotor_actors.cli.output import as_json, print_rows
from rotor_actors.cli.stores import stores_of
from rotor_actors.ownership import without_undoing
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.stores.shared import is_shared_view
from rotor_actors.views import ReplicaInfo, UnownedRuns

_COLUMNS = ("replica", "number", "since", "lease", "owned", "role", "workflows")
_UNOWNED = ("workflow_id", "version", "runs", "parked", "note")


def replicas(options: argparse.Namespace) -> int:
    """List them. Status 1 where runs wait that no replica can run: for scripts and alarms."""

    async def read() -> tuple[list[ReplicaInfo], list[UnownedRuns]]:
        async with RuntimeView(stores_of(options.store)) as view:
            if not is_shared_view(view.store):
                raise UsageError(f"{options.store} has one owner; only a store that replicas share has any")
            return await view.replicas(), await view.unowned()

    found, unowned = asyncio.run(read())
    if options.output != "table":
        shown = {"replicas": msgspec.to_builtins(found, enc_hook=str), "unowned": msgspec.to_builtins(unowned)}
        print(as_json(shown, indent=2 if options.output == "json" else 0))
    else:
        if found:
            print_rows([row_of(each) for each in found], _COLUMNS, "table")
        else:
            print("no replica has the store open", file=sys.stderr)
        if unowned:
            print("\nruns that nobody owns", file=sys.stderr)
            print_rows([_unowned_row(each) for each in unowned], _UNOWNED, "table")
    return FAILED if any(not each.can_run for each in unowned) else DONE


def row_of(replica: ReplicaInfo) -> dict[str, Any]:
    """What a table has room for."""
    by_name = replica.workflows
    workflows = (name if (versions := by_name[name]) is None else f"{name}@{'|'.join(versions)}"
                 for name in without_undoing(by_name))  # fmt: skip
    roles = {"coordinator": replica.is_coordinator, "draining": replica.is_draining}
    return {
        "replica": replica.label,
        "number": replica.number,
        "since": replica.began_at,
        "lease": f"{replica.lease_left:.1f}s left" if replica.lease_left > 0 else "run out",
        "owned": replica.owned,
        "role": " ".join(role for role, has in roles.items() if has),
        "workflows": " ".join(workflows),
    }


def _unowned_row(each: UnownedRuns) -> dict[str, Any]:
    note = "any replica with room claims them" if each.can_run else "no replica can run them"
    return {**msgspec.to_builtins(each), "note": note}
