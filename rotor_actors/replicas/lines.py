"""The lines of flow control over many replicas: what the coordinator is told of runs in them, and what it tells runs."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rotor_actors.ending import Ending
from rotor_actors.errors import ErrorInfo
from rotor_actors.features import Feature
from rotor_actors.finishing import Finishing
from rotor_actors.flow.arriving import Arriving
from rotor_actors.flow.creating import replace
from rotor_actors.flow.notes import Enter, KeyPaused, Left, LetGo, LineNote, RunsGone, Turn
from rotor_actors.flow.passes import NOT_AWAITED, PLACE_SPACE, Pass, place_item
from rotor_actors.kernel import Kernel
from rotor_actors.records import Entry, ItemDropped, MailKind, MailSent, RunRow, RunStatus
from rotor_actors.replicas.asking import Asker, Asking
from rotor_actors.replicas.legible import legible_rows
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing
from rotor_actors.step_specs import SKIPPED
from rotor_actors.stores.base import StoreReader
from rotor_actors.stores.shared import Mail


class Lines(Feature):
    """Handles the mail of lines, on either side."""

    def __init__(
        self, kernel: Kernel, sharing: Sharing, finishing: Finishing, ending: Ending, asking: Asking, arriving: Arriving
    ) -> None:
        self._kernel = kernel
        self._arriving = arriving
        self._finishing = finishing
        self._ending = ending
        self._asking = asking
        self._above: dict[int, list[int]] = {}
        self._is_prepared = False
        sharing.handlers[MailKind.LINE] = self._told
        sharing.preparers[MailKind.LINE] = self._prepare
        sharing.handlers[MailKind.LEFT] = self._left
        sharing.handlers[MailKind.TURN] = self._turn

    def run_ends(self, run: Run) -> list[Entry]:
        return self._kernel.gate.end_entries(run)

    # The coordinator's side

    async def _prepare(self, mails: list[Mail]) -> None:
        """Who awaits the runs that come: a run lends its place to one that it awaits, wherever either is."""
        self._above.clear()
        self._is_prepared = self._kernel.gate.is_deciding
        if not self._is_prepared:
            return
        notes = [msgspec.msgpack.decode(mail.body or b"", type=LineNote) for mail in mails]
        parents = {note.n: note.parent_n for note in notes if isinstance(note, Enter) and note.parent_n is not None}
        if parents:
            ports = self._kernel.ports
            self._above = await ports.reader.call(lambda: ancestors(ports.store, parents))

    def _told(self, mail: Mail, run: Run | None) -> bool:
        gate = self._kernel.gate
        if not self._is_prepared:
            return False
        note: LineNote = msgspec.msgpack.decode(mail.body or b"", type=LineNote)
        match note:
            case Enter():
                self._enter(note)
            case LetGo(n):
                gate.let_go_of(n)
            case KeyPaused(name, is_paused, ask, to):
                if is_paused:
                    gate.pause(name)
                else:
                    gate.resume(name)
                self._asking.answer(Asker(to, ask))
            case RunsGone(run_ids):
                for entry in self._arriving.runs_deleted(run_ids):
                    self._kernel.journal.append(entry)
        return True

    def _enter(self, note: Enter) -> None:
        gate = self._kernel.gate
        each = gate.passes.get(note.n)
        if each is None:
            each = gate.passes[note.n] = Pass(stub_of(self._kernel, note), note.ticket, has_begun=False)
        elif each.turnstile is not None:
            return  # the next coordinator found it in the store before it read the mail
        if note.parent_n is not None:
            each.above = self._above.get(note.n, [])
        if note.is_under_way:
            gate.is_there(each)
            self._kernel.journal.append(place_item(note.n))
            gate.runs(each)
        elif self._meets_no_other(each, note):
            gate.is_there(each)
            gate.line_up(each)

    def _meets_no_other(self, each: Pass, note: Enter) -> bool:
        """Of a singleton: the other goes, or this one does."""
        gate = self._kernel.gate
        rival = gate.rival_of(each)
        if rival is None and each.why and each.ticket.follows in gate.passes:
            rival = gate.passes[each.ticket.follows].run  # as the next coordinator found them in the store
        if rival is None:
            return True
        ticket = each.ticket
        if not rival.is_doomed and (not ticket.replaces or rival.row.n in (each.above or ())):
            turn = Turn(rival.row.run_id, ticket.singleton or "")
            self._kernel.journal.append(MailSent(note.n, MailKind.TURN, msgspec.msgpack.encode(turn)))
            gate.is_skipped(each, rival)
            return False
        each.ticket = msgspec.structs.replace(ticket, follows=gate.last_of(rival))
        if not rival.is_doomed:
            replace(self._kernel, self._finishing, rival, note.run_id, [])
        return True

    def _left(self, mail: Mail, run: Run | None) -> bool:
        kernel = self._kernel
        if not kernel.gate.is_deciding:
            return False
        left = msgspec.msgpack.decode(mail.body or b"", type=Left)
        each = kernel.gate.passes.get(left.n)
        if left.until > kernel.now() and each is not None and each.run.phase is Phase.REMOTE:
            each.run.is_doomed = True
            kernel.timers.add(_Cleaning(self, left.n), left.until)
        else:
            self.gone(left.n)
        return True

    def gone(self, n: int) -> None:
        """A run has left its line; or has had the time to clean up that it has."""
        kernel = self._kernel
        kernel.journal.append(ItemDropped(PLACE_SPACE, str(n)))
        self._arriving.merging.is_gone(n)
        if n in kernel.gate.passes and kernel.tree.get(n) is None:  # else it still cleans up here
            kernel.gate.gone(n)
            kernel.queue_of_runs.poke()

    # The owner's side

    def _turn(self, mail: Mail, run: Run | None) -> bool:
        """What the coordinator says to a run of ours."""
        if run is None or run.is_doomed or run.row.status is not RunStatus.QUEUED:
            return True
        each = self._kernel.gate.passes.get(run.row.n)
        if run.workflow is None or each is None:
            return False
        turn = Turn() if mail.body is None else msgspec.msgpack.decode(mail.body, type=Turn)
        if turn.skipped_for:
            message = (
                f"{run.where}: not begun, for it is of the singleton {turn.name!r}, of which run {turn.skipped_for} is "
                f"there and has not ended; await that one, or give the singleton a key"
            )
            info = ErrorInfo(SKIPPED, message, turn.skipped_for, is_final=True)
            self._ending.end(run, RunStatus.FAILED, error=msgspec.msgpack.encode(info))
        else:
            each.has_begun = True
            self._kernel.gate.begin_here(run, self._kernel.now())
        return True


class _Cleaning:
    """A run of another replica that cleans up."""

    def __init__(self, lines: Lines, n: int) -> None:
        self._lines = lines
        self._n = n

    def alarm(self, now: float) -> None:
        self._lines.gone(self._n)


def stub_of(kernel: Kernel, note: Enter | RunRow) -> Run:
    """A run that somebody else owns, as the lines know it: no run of any tree."""
    row = note
    if isinstance(row, Enter):
        row = RunRow(
            n=row.n, run_id=row.run_id, workflow_id=row.workflow_id, root_n=row.root_n, root_run_id="",
            created_at=row.created_at, parent_n=row.parent_n, depth=row.depth, status=RunStatus.QUEUED,
        )  # fmt: skip
    stub = Run(kernel, row, None, Phase.REMOTE)
    stub.workflow = kernel.registry.get(row.workflow_id)
    return stub


def ancestors(store: StoreReader, parents: dict[int, int]) -> dict[int, list[int]]:
    """Of each run the numbers of those that await it, the nearest first; `parents` are the nearest."""
    found: dict[int, list[int]] = {n: [] for n in parents}
    climbing = dict(parents)
    while climbing:
        rows = {row.n: row for row in legible_rows(store, sorted(set(climbing.values())))}
        higher: dict[int, int] = {}
        for n, ancestor in climbing.items():
            row = rows.get(ancestor)
            if row is None or row.ended_at is not None:
                continue
            found[n].append(ancestor)
            if row.parent_n is not None and not row.flags & NOT_AWAITED:
                higher[n] = row.parent_n
        climbing = higher
    return found


def awaited(rows: Iterable[RunRow]) -> dict[int, int]:
    """Of the runs that somebody awaits: who."""
    return {row.n: row.parent_n for row in rows if row.parent_n is not None and not row.flags & NOT_AWAITED}
