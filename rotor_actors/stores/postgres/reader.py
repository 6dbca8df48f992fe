"""Reading a shared store: for a replica, and for whoever only looks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rotor_actors.errors import StoreCorruptedError, StoreError, StoreUnavailableError
from rotor_actors.ids import is_storable
from rotor_actors.records import ChildRow, History, ItemRow, RunRow, RunStatus, StepRow
from rotor_actors.stores import schema
from rotor_actors.stores.base import EndedRootsQuery, EndsQuery, ItemQuery, LiveRun, RunQuery, merged_ends
from rotor_actors.stores.postgres import queries
from rotor_actors.stores.postgres.address import Address, within
from rotor_actors.stores.postgres.io_thread import IOThread
from rotor_actors.stores.postgres.link import Link
from rotor_actors.stores.postgres.texts import TextColumns, escaped, unescaped
from rotor_actors.stores.shared import Declared, OwnershipCount, RemoteChild, ReplicaRow
from rotor_actors.stores.sqlite_reading import Decoder

T = TypeVar("T")
Rows = list[Any]

_RUN_TEXTS = TextColumns(schema.RUN_COLUMNS)
_CHILD_TEXTS = TextColumns(schema.CHILD_COLUMNS)
_STEP_TEXTS = TextColumns(schema.STEP_COLUMNS)
_ITEM_TEXTS = TextColumns(schema.ITEM_COLUMNS)
_RUN_WIDTH = len(schema.RUN_COLUMNS)
_ANY = 2**62


class Decoding:
    """Rows to records; what cannot be understood is damaged, and said so."""

    def __init__(self, name: str) -> None:
        self._decoder = Decoder(name)

    def run(self, row: Any) -> RunRow:
        return self._decoder.run(_RUN_TEXTS.unescape(row[:_RUN_WIDTH]))

    def run_or_mark(self, row: Any) -> RunRow:
        return self._decoder.run_or_mark(_RUN_TEXTS.unescape(row[:_RUN_WIDTH]))

    def lean_run(self, row: Any) -> RunRow:
        return self._decoder.lean_run(_RUN_TEXTS.unescape(row[:_RUN_WIDTH]))

    def live(self, row: Any) -> LiveRun:
        return LiveRun(self.run_or_mark(row), row[_RUN_WIDTH])

    def child(self, row: Any) -> ChildRow:
        return self._decoder.child(_CHILD_TEXTS.unescape(row))

    def step(self, row: Any) -> StepRow:
        return self._decoder.step(_STEP_TEXTS.unescape(row))

    def item(self, row: Any) -> ItemRow:
        return self._decoder.item(_ITEM_TEXTS.unescape(row))


class PostgresReader:
    """The reading verbs, `SharedReader`. Each is one statement, or one read-only transaction: of one moment."""

    is_inline = False

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._decoding = Decoding(address.name)
        self._hang_up()
        self._schema = address.schema or ""

    def _hang_up(self) -> None:
        """It is closed, and nothing of its opening is known any more."""
        self._io = IOThread("rotor-postgres")
        self._reader: Link | None = None

    @property
    def name(self) -> str:
        """The database, without the password."""
        return self._address.name

    @property
    def schema(self) -> str:
        """Where the tables are, once it is open."""
        return self._schema

    # Runs

    def last_numbers(self) -> tuple[int, int]:
        raise StoreError(f"{self._address.name}: who only looks gives no numbers")

    def live_runs(self) -> list[LiveRun]:
        return self._all(queries.LIVE_RUNS, (), self._decoding.live)

    def histories(self, ns: list[int]) -> dict[int, History]:
        steps, children = self._snapshot((queries.STEPS_OF, (ns,)), (queries.CHILDREN_OF, (ns,)))
        found = {n: History([], []) for n in ns}
        for step in self._decoded(steps, self._decoding.step):
            found[step.n].steps.append(step)
        for child in self._decoded(children, self._decoding.child):
            found[child.parent_n].children.append(child)
        return found

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        arguments = (query.n, *query.after, query.upto_seq, query.prefix, query.limit)
        rows = self._snapshot((queries.TIMED_OUT_IN_A_MAP, arguments), (queries.ENDED_IN_A_MAP, arguments))
        steps, children = rows
        decoding = self._decoding
        return merged_ends(query, self._decoded(steps, decoding.step), self._decoded(children, decoding.child))

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        return dict(self._all(queries.PARENTS_OF, (ns,), tuple))

    def find(self, run_id: str) -> RunRow | None:
        if not is_storable(run_id):
            return None  # such as a command line's bytes that are no text: nothing has it, and nothing is damaged
        found = self._all(queries.FIND, (escaped(run_id),), self._decoding.run)
        return found[0] if found else None

    def rows(self, ns: list[int]) -> list[RunRow]:
        return self._all(queries.ROWS, (ns,), self._decoding.run)

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        return [n for (n,) in self._all(queries.TREE_NUMBERS, (root_n, limit), tuple)]

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        sql, arguments = queries.ended_roots(query)
        return self._all(sql, arguments, self._decoding.run_or_mark)

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        sql, arguments = queries.list_runs(query)
        return self._all(sql, arguments, self._decoding.lean_run if query.is_lean else self._decoding.run_or_mark)

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        sql, arguments = (queries.COUNT_ALL, ()) if root_n is None else (queries.COUNT_TREE, (root_n,))
        return {RunStatus(status): count for status, count in self._all(sql, arguments, tuple)}

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        return self._all(queries.STEPS, (n, _ANY if limit is None else limit), self._decoding.step)

    # Items

    def items(self, query: ItemQuery) -> list[ItemRow]:
        ord_, key = query.after or (-(2**63), "")
        limit = _ANY if query.limit is None else query.limit
        arguments: tuple[Any, ...] = (escaped(query.space), ord_, escaped(key), limit)
        if query.prefix:
            prefix = escaped(query.prefix)
            return self._all(queries.ITEMS_OF_PREFIX, (*arguments, prefix, prefix + queries.LAST), self._decoding.item)
        return self._all(queries.ITEMS, arguments, self._decoding.item)

    def item(self, space: str, key: str) -> ItemRow | None:
        found = self._all(queries.ITEM, (escaped(space), escaped(key)), self._decoding.item)
        return found[0] if found else None

    def items_of(self, ns: list[int]) -> list[ItemRow]:
        return self._all(queries.ITEMS_OF, (ns,), self._decoding.item)

    # Replicas

    def replicas(self) -> list[ReplicaRow]:
        rows, declared = self._snapshot((queries.REPLICAS, ()), (queries.DECLARED, ()))
        found = [
            ReplicaRow(number, unescaped(label), began_at, lease_until, [], is_coordinator, is_draining, owned)
            for number, label, began_at, lease_until, is_draining, is_coordinator, owned in rows
        ]
        by_number = {row.number: row for row in found}
        for number, workflow_id, versions in declared:
            if number in by_number:
                of_it = by_number[number].declared
                known = None if versions is None else tuple(map(unescaped, versions))
                of_it.append(Declared(unescaped(workflow_id), known))
        return found

    def database_time(self) -> float:
        """Seconds since the epoch, by the clock that decides leases."""
        times = self._all("SELECT extract(epoch FROM clock_timestamp())::float8", (), lambda row: float(row[0]))
        return times[0]

    def owners(self, ns: list[int]) -> dict[int, int | None]:
        return dict(self._all(queries.OWNERS, (ns,), tuple))

    def unowned(self) -> list[OwnershipCount]:
        def count(row: Any) -> OwnershipCount:
            workflow_id, version, *counts = row
            return OwnershipCount(unescaped(workflow_id), None if version is None else unescaped(version), *counts)

        return self._all(queries.UNOWNED, (), count)

    def remote_children(self, ns: list[int]) -> list[RemoteChild]:
        decoding = self._decoding
        return self._all(
            queries.REMOTE_CHILDREN, (ns,), lambda row: RemoteChild(decoding.run_or_mark(row), row[_RUN_WIDTH])
        )

    # How

    def _all(self, sql: str, arguments: Any, decode: Callable[[Any], T]) -> list[T]:
        async def read(connection: Any) -> Rows:
            rows: Rows = await connection.fetch(within(sql, self._schema), *arguments)
            return rows

        return self._decoded(self._read(read), decode)

    def _snapshot(self, *statements: tuple[str, Any]) -> list[Rows]:
        """The rows of several statements that see the same."""

        async def read(connection: Any) -> list[Rows]:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return [await connection.fetch(within(sql, self._schema), *arguments) for sql, arguments in statements]

        return self._read(read)

    def _read(self, read: Callable[[Any], Awaitable[T]]) -> T:
        """Read, and once more if the connection was lost: nothing is changed by it."""
        link = self._reader
        if link is None:
            raise StoreError(f"{self._address.name} is closed")
        try:
            return self._io.call(link.use("read", read))
        except StoreUnavailableError:
            return self._io.call(link.use("read", read))

    def _decoded(self, rows: Rows, decode: Callable[[Any], T]) -> list[T]:
        try:
            return [decode(row) for row in rows]
        except ValueError as error:  # a status that there is not
            raise StoreCorruptedError(
                f"read {self._address.name}: a row cannot be understood ({error}): it was damaged. Restore a backup."
            ) from error
