"""Where in the code steps are asked for: what an error of changed code names beside the step.

A place is looked up once for each step id of a workflow and process, and kept as an item of the store when the runtime
is closed in good order: so that the error can name the place that a record comes from after the code has moved on. Of a
workflow no more than some step ids are kept: those whose ids are made of data have one place for thousands of ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from rotor_actors.code_places import place_in
from rotor_actors.errors import StoreError
from rotor_actors.features import Feature
from rotor_actors.flow.options import LONGEST_KEY
from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemPut, ItemRow, Kind
from rotor_actors.run import Run
from rotor_actors.stores.base import ItemQuery
from rotor_actors.workflows import Workflow

SPACE = "place"
_MOST_PLACES = 4
_BETWEEN = "\x1f"  # of workflow and step id in a key; not NUL, which would end a text of SQLite


class Place(msgspec.Struct, frozen=True):
    """A step of this kind and target was asked for at `at`."""

    kind: Kind
    target: str
    at: str


class Places(Feature):
    """Knows of each workflow's steps where they are, and where they were."""

    spaces = (SPACE,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.noted: dict[str, set[str]] = {}
        """Step ids by workflow whose place was looked up by this process, or will not be."""
        self._known: dict[tuple[str, str], list[Place]] = {}
        self._new: set[tuple[str, str]] = set()
        self._is_loaded = False

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        """What it keeps is no run's: of a store that is shared it is read when it may first be asked for."""
        if not self._is_loaded:
            self._is_loaded = True
            self._kernel.in_background(self._load())

    async def _load(self) -> None:
        ports = self._kernel.ports
        try:
            self.open({SPACE: await ports.reader.call(partial(ports.store.items, ItemQuery(SPACE)))})
        except StoreError as error:
            self._kernel.journal.fail(error)  # as whatever else the store refuses: the next incarnation reads it

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            workflow_id, _, step_id = item.key.partition(_BETWEEN)
            if (workflow_id, step_id) not in self._known:
                self._known[workflow_id, step_id] = msgspec.msgpack.decode(item.body or b"\x90", type=list[Place])

    def note(self, workflow: Workflow[Any, Any], step_id: str, kind: Kind, target: str) -> None:
        """The body asks for this step, and is on the stack."""
        self.noted.setdefault(workflow.id, set()).add(step_id)
        place = Place(kind, target, place_in(workflow))
        known = self._known.setdefault((workflow.id, step_id), [])
        if place in known:
            return
        others = [each for each in known if (each.kind, each.target) != (kind, target)]
        self._known[workflow.id, step_id] = known = [place, *others][:_MOST_PLACES]
        if len(step_id) <= LONGEST_KEY:  # an index of PostgreSQL refuses long ones, and the commit with them
            self._new.add((workflow.id, step_id))

    def drain(self) -> None:
        """Keep what was found. Only now: a place is worth no commit, and code changes between two processes."""
        new, self._new = self._new, set[tuple[str, str]]()
        for workflow_id, step_id in sorted(new):
            body = msgspec.msgpack.encode(self._known[workflow_id, step_id])
            self._kernel.journal.append(ItemPut(ItemRow(SPACE, f"{workflow_id}{_BETWEEN}{step_id}", body)))

    def recorded(self, workflow_id: str, step_id: str, kind: Kind, target: str) -> str:
        """Where the code asked for it when it was recorded; "" where that is not known."""
        known = self._known.get((workflow_id, step_id), ())
        return next((each.at for each in known if (each.kind, each.target) == (kind, target)), "")
