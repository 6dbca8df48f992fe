"""Letting go of runs whose end has been appended, telling who waits for them, and starting their handlers."""

from __future__ import annotations

from typing import Any

import msgspec

from rotor_actors.errors import ErrorInfo, PayloadError
from rotor_actors.ids import handler_run_id
from rotor_actors.kernel import Kernel
from rotor_actors.payload import Codec
from rotor_actors.records import Entry, RunCreated, RunFlag, RunRow
from rotor_actors.replicas.remote import RemoteRuns
from rotor_actors.run import Phase, Run
from rotor_actors.workflows import EndedRun, Workflow


class HandlerInput(msgspec.Struct, frozen=True):
    """The stored input of an `on_failure` or `on_cancel` run; `data` is the original input, encoded."""

    run_id: str
    workflow_id: str
    data: bytes | None
    error: ErrorInfo | None
    reason: str


def _decoded(codec: Codec, untyped: Codec, data: bytes) -> Any:
    """Data that does not fit its annotation may be why the run failed: its handler is given it as it came."""
    try:
        return codec.decode(data)
    except PayloadError:
        return untyped.decode(data)


class Finishing:
    """What happens after a run's end, however it came."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.remote = None if kernel.sharing is None else RemoteRuns(kernel, kernel.sharing)

    def finish(self, run: Run) -> None:
        """Let go of a run whose end has been appended; whoever waits for it is told when that is durable."""
        kernel = self._kernel
        run.phase, run.actor = Phase.ENDED, None
        run.mailbox = None
        kernel.timers.discard(run)
        kernel.journal.forget_rest(run.row.n)
        if self.remote is not None:
            self.remote.parent_ended(run)
        kernel.tree.remove(run)
        had_begun = run.row.n not in kernel.gate.passes or kernel.gate.leave(run)
        if run.row.parent_n is None:
            if had_begun:
                kernel.admission.leave(run)
            kernel.admit_held()
        self.tell_waiters(run)
        kernel.on_progress(run)

    def tell_waiters(self, run: Run) -> None:
        """Give the end to whoever awaits it, once it is durable."""
        waiters, run.waiters = run.waiters, None
        if waiters:
            row = run.snapshot()

            def tell() -> None:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(row)

            self._kernel.journal.when_durable(row.end_seq or 0, tell)

    # Handlers

    def handler_entry(
        self, run: Run, handler: Workflow[Any, Any], event: str, error: ErrorInfo | None, reason: str
    ) -> RunCreated:
        """The run of a handler: a root of its own, that names the run it cleans up after."""
        row, now, n = run.row, self._kernel.now(), self._kernel.tree.next_n()
        run_id = handler_run_id(row.run_id, event if not row.attempts_before else f"{event}:{row.attempts_before}")
        data = msgspec.msgpack.encode(HandlerInput(row.run_id, row.workflow_id, row.input, error, reason))
        return RunCreated(
            RunRow(
                n=n, run_id=run_id, workflow_id=handler.id, root_n=n, root_run_id=run_id, created_at=now,
                parent_run_id=row.run_id, parent_step_id=event, input=data, attempt_at=now, flags=RunFlag.HANDLER,
            )
        )  # fmt: skip

    def begin_handlers(self, entries: list[Entry]) -> None:
        """Let the handler runs among the entries, which have been appended, begin."""
        for entry in entries:
            if isinstance(entry, RunCreated):
                handler = self._kernel.registry.get(entry.run.workflow_id)
                assert handler is not None
                run = self._kernel.create(entry.run, handler, None, None)
                run.seen_seq = self._kernel.journal.last_seq

    def decode_ended(self, workflow: Workflow[Any, Any], blob: bytes) -> EndedRun[Any]:
        """What a handler of `workflow` is given."""
        stored = msgspec.msgpack.decode(blob, type=HandlerInput)
        codec = self._kernel.registry.data_codec(workflow)
        data = None if stored.data is None else _decoded(codec, self._kernel.registry.codecs.of(Any), stored.data)
        return EndedRun(stored.run_id, stored.workflow_id, data, stored.error, stored.reason)
