"""Workflows that the clock starts: each scheduled time once, whatever crashes, and what was missed by a stated policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from rotor_actors.cron_times import MOST_MISSED, next_time, to_start
from rotor_actors.features import Feature
from rotor_actors.ids import scheduled_run_id
from rotor_actors.kernel import Kernel
from rotor_actors.records import EventNote, ItemPut, ItemRow
from rotor_actors.roots import start_root
from rotor_actors.workflows import Cron, Workflow

SPACE = "schedules"

_logger = logging.getLogger("rotor_actors")


class ScheduleNote(msgspec.Struct, frozen=True):
    """The body of a schedule's item; its key is the workflow's id. `last` is up to when runs were started."""

    expression: str
    timezone: str
    last: float


class Schedules(Feature):
    """The schedules of all registered workflows."""

    spaces = (SPACE,)
    common = (SPACE,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._workflows: list[Workflow[Any, Any]] = []
        self._notes: dict[str, ScheduleNote] | None = None
        self._schedules: list[_Schedule] = []

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        is_home = self._kernel.options.is_home
        if isinstance(workflow.on, Cron) and (is_home is None or is_home(workflow, "")):
            if self._notes is None:
                self._workflows.append(workflow)
            else:
                self._begin(workflow, workflow.on, self._notes)

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self._notes = {item.key: msgspec.msgpack.decode(item.body or b"", type=ScheduleNote) for item in items[SPACE]}
        workflows, self._workflows = self._workflows, []
        for workflow in workflows:
            self.workflow_known(workflow)

    def begin_coordinating(self, items: Mapping[str, list[ItemRow]]) -> None:
        """The coordinator's clock starts them; whoever was it before it committed all or nothing of each time."""
        self.open(items)

    def _begin(self, workflow: Workflow[Any, Any], cron: Cron, notes: dict[str, ScheduleNote]) -> None:
        """Go on where the last process stopped. A schedule that is new, or another than it was, begins now."""
        note, now = notes.get(workflow.id), self._kernel.now()
        if note is None or (note.expression, note.timezone) != (cron.expression, cron.timezone):
            last = now if note is None else max(now, note.last)
            note = ScheduleNote(cron.expression, cron.timezone, last)
            self._kernel.journal.append(put_note(workflow, note))
            self._kernel.journal.kick()
        schedule = _Schedule(self._kernel, workflow, cron, note.last)
        self._schedules.append(schedule)
        schedule.arm()

    def drain(self) -> None:
        """What comes due while the runtime closes is made up for when it is opened again."""
        for schedule in self._schedules:
            self._kernel.timers.discard(schedule)


class _Schedule:
    """One workflow's."""

    def __init__(self, kernel: Kernel, workflow: Workflow[Any, Any], cron: Cron, last: float) -> None:
        self._kernel = kernel
        self._workflow = workflow
        self._cron = cron
        self._last = last

    def arm(self) -> None:
        self._kernel.timers.add(self, next_time(self._cron, self._last))

    def alarm(self, now: float) -> None:
        """A time has come, or some have passed. What is started and up to when is one act: no time counts twice."""
        kernel = self._kernel
        times = to_start(self._cron, self._last, now)
        self._warn(len(times), now)
        with kernel.journal.one_act():
            for time in times:
                self._start(time)
            self._last = now
            note = ScheduleNote(self._cron.expression, self._cron.timezone, now)
            kernel.journal.append(put_note(self._workflow, note))
        kernel.queue_of_runs.poke()
        self.arm()

    def _start(self, time: float) -> None:
        moment = datetime.fromtimestamp(time, UTC).isoformat()
        run_id = scheduled_run_id(self._workflow.id, moment)
        note = EventNote(self._workflow.id, run_id, time)
        start_root(self._kernel, self._workflow, None, run_id, event=note)

    def _warn(self, started: int, now: float) -> None:
        if started >= MOST_MISSED:
            _logger.warning(
                "workflow %r: its schedule %r was missed so often that only the latest %d times are made up for",
                self._workflow.id, self._cron.expression, MOST_MISSED,
            )  # fmt: skip


def put_note(workflow: Workflow[Any, Any], note: ScheduleNote) -> ItemPut:
    """The entry that says up to when runs were started."""
    return ItemPut(ItemRow(SPACE, workflow.id, msgspec.msgpack.encode(note)))
