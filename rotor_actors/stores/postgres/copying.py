"""A shared store copied into a file that `SQLiteStore` opens: one process can go on from it, or look at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rotor_actors.records import Entry, ItemPut, RunCreated, RunFlag, StepRecorded
from rotor_actors.stores import schema
from rotor_actors.stores.postgres.address import within
from rotor_actors.stores.postgres.reader import Decoding
from rotor_actors.stores.sqlite import SQLiteStore

_ROWS = 2_000
_RUNS = f"SELECT {', '.join(schema.RUN_COLUMNS)} FROM @.rotor_runs ORDER BY n"
_STEPS = f"SELECT {', '.join(schema.STEP_COLUMNS)} FROM @.rotor_steps ORDER BY n, seq"
_ITEMS = f"SELECT {', '.join(schema.ITEM_COLUMNS)} FROM @.rotor_items ORDER BY space, item_key"


async def copy(connection: Any, own_schema: str, decoding: Decoding, path: Path) -> None:
    """Write all that is recorded at one moment to a new file. Messages under way are not part of it."""
    target = SQLiteStore(path)
    target.open()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for entries in _pages(connection, own_schema, decoding):
                target.commit(entries)
    finally:
        target.close()


async def _pages(connection: Any, own_schema: str, decoding: Decoding) -> AsyncIterator[list[Entry]]:
    for sql, entry_of in ((_RUNS, _run), (_STEPS, _step), (_ITEMS, _item)):
        entries: list[Entry] = []
        async for row in connection.cursor(within(sql, own_schema), prefetch=_ROWS):
            entries.append(entry_of(decoding, row))
            if len(entries) >= _ROWS:
                yield entries
                entries = []
        yield entries


def _run(decoding: Decoding, row: Any) -> Entry:
    run = decoding.run_or_mark(row)
    run.flags &= ~RunFlag.UNSEEN  # in one process, a parent knows of its children's ends
    return RunCreated(run, max(run.end_seq or 0, run.attempt_seq, run.rest_seq))


def _step(decoding: Decoding, row: Any) -> Entry:
    step = decoding.step(row)
    return StepRecorded(step, step.seq)


def _item(decoding: Decoding, row: Any) -> Entry:
    return ItemPut(decoding.item(row))
