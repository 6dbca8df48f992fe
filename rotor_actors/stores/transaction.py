"""User code within the store's own transaction: what it may do there, for how long, and what becomes of its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import apsw

from rotor_actors.errors import StepRefusedError, StepTimeoutError, StoreError, StoreFullError

_OWN = frozenset({"runs", "steps", "numbers", "items", "commits"})
_OWN_PREFIX = "rotor_"
_STEPS_PER_LOOK = 5_000

_BY_FIRST = frozenset({
    apsw.SQLITE_READ, apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE, apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_DROP_TABLE, apsw.SQLITE_CREATE_VIEW, apsw.SQLITE_DROP_VIEW, apsw.SQLITE_CREATE_VTABLE,
    apsw.SQLITE_DROP_VTABLE, apsw.SQLITE_ANALYZE,
})  # fmt: skip
_BY_SECOND = frozenset({
    apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_DROP_TRIGGER,
    apsw.SQLITE_ALTER_TABLE,
})  # fmt: skip
_NEVER = {
    apsw.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK are not yours here: the transaction is the step's",
    apsw.SQLITE_SAVEPOINT: "SAVEPOINT is not yours here: the transaction is the step's, and an error undoes all of it",
    apsw.SQLITE_ATTACH: "ATTACH: only the store's own file can be written to in one transaction with the step",
    apsw.SQLITE_DETACH: "DETACH is not possible here",
    apsw.SQLITE_PRAGMA: "PRAGMA is not possible here: it would change the runtime's own connection",
    **dict.fromkeys(
        (apsw.SQLITE_CREATE_TEMP_TABLE, apsw.SQLITE_CREATE_TEMP_INDEX, apsw.SQLITE_CREATE_TEMP_TRIGGER,
         apsw.SQLITE_CREATE_TEMP_VIEW, apsw.SQLITE_DROP_TEMP_TABLE, apsw.SQLITE_DROP_TEMP_INDEX,
         apsw.SQLITE_DROP_TEMP_TRIGGER, apsw.SQLITE_DROP_TEMP_VIEW),
        "temporary tables are not possible here: the connection is the runtime's own",
    ),
}  # fmt: skip

Bindings = Sequence[Any] | Mapping[str, Any]
T = TypeVar("T")


class GuardedConnection(Protocol):
    """What is used of an apsw connection."""

    authorizer: Any

    def execute(self, statements: str, bindings: Any = None) -> Any: ...

    def executemany(self, statements: str, sequenceofbindings: Any) -> Any: ...

    def set_progress_handler(self, callable: Any, nsteps: int = ...) -> None: ...

    def changes(self) -> int: ...

    def last_insert_rowid(self) -> int: ...

    def get_autocommit(self) -> bool: ...


class Transaction:
    """What the function of `step.transaction` writes with: SQL on the store's own file, in the step's own transaction.

    It may read and write your own tables, and create and change them. The runtime's (`runs`, `steps`, `numbers`,
    `items`, and all that begin with `rotor_`) are not there for it, and neither are transaction control, ATTACH, PRAGMA
    and temporary tables. It is of no use after the function has returned.
    """

    def __init__(self, connection: GuardedConnection, guard: Guard) -> None:
        self._connection = connection
        self._guard = guard

    def execute(self, sql: str, bindings: Bindings = ()) -> list[tuple[Any, ...]]:
        """Execute one or more statements, and give all rows.

        Raises:
            StepRefusedError: what the transaction may not do, by name.
            StepTimeoutError: the transaction took longer than its `timeout`.
            apsw.Error: what SQLite has against it, e.g. `apsw.ConstraintError`.
        """
        return self._guard.guarded(lambda: list(self._connection.execute(sql, bindings)))

    def executemany(self, sql: str, rows: Iterable[Bindings]) -> None:
        """Execute a statement for each of the bindings. Raises as `execute` does."""
        self._guard.guarded(lambda: list(self._connection.executemany(sql, rows)))

    @property
    def changes(self) -> int:
        """How many rows the newest statement changed."""
        return self._guard.guarded(self._connection.changes)

    @property
    def last_rowid(self) -> int:
        """The rowid of the row inserted last."""
        return self._guard.guarded(self._connection.last_insert_rowid)


class TransactionCall:
    """One execution: the work, its time limit, and whether anybody still wants it.

    Args:
        where: names the run and the step. timeout: in seconds.
        work: is given the transaction, and gives what is to be kept of its result, encoded.
        monotonic: the clock by which the limit is measured, in seconds.
    """

    def __init__(
        self,
        where: str,
        step_id: str,
        timeout: float,
        work: Callable[[Transaction], bytes],
        monotonic: Callable[[], float],
    ) -> None:
        self.where = where
        self.step_id = step_id
        self.timeout = timeout
        self.work = work
        self.monotonic = monotonic
        self.is_unwanted = False
        """Set by another thread: the run was cancelled, or the scope was. What is not committed yet is not."""


class Guard:
    """Watches over one execution."""

    def __init__(self, call: TransactionCall) -> None:
        self._call = call
        self._monotonic = call.monotonic
        self._deadline = call.monotonic() + call.timeout
        self._is_over = False
        self._refusal = ""

    def run(self, connection: GuardedConnection) -> bytes:
        """Do the work; raises what it raises."""
        connection.authorizer = self._authorize
        connection.set_progress_handler(self._is_late, _STEPS_PER_LOOK)
        try:
            payload = self._call.work(Transaction(connection, self))
            self._check_time()
            return payload
        finally:
            self._is_over = True
            connection.set_progress_handler(None)
            connection.authorizer = None

    def guarded(self, act: Callable[[], T]) -> T:
        if self._is_over:
            raise StepRefusedError(f"{self._call.where}: its transaction is over; do all of it within the function")
        self._check_time()
        self._refusal = ""
        try:
            return act()
        except apsw.AuthError as error:
            raise StepRefusedError(f"{self._call.where}: {self._refusal or error}") from error
        except apsw.InterruptError:
            self._check_time()
            raise
        except apsw.FullError as error:
            raise StoreFullError("the disk is full; make room, it goes on by itself") from error
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError) as error:
            raise StoreError(f"{self._call.where}: {type(error).__name__}: {error}") from error

    def _is_late(self) -> bool:
        return self._call.is_unwanted or self._monotonic() > self._deadline

    def _check_time(self) -> None:
        if self._call.is_unwanted:
            raise UnwantedError
        if self._monotonic() > self._deadline:
            raise StepTimeoutError(
                f"{self._call.where}: its transaction took longer than {self._call.timeout:g} s, and was rolled back: "
                f"no other commit can be made meanwhile. Do the slow part in a step.run before it",
                step_id=self._call.step_id, timeout=self._call.timeout,
            )  # fmt: skip

    def _authorize(self, op: int, first: str | None, second: str | None, _db: str | None, _trigger: str | None) -> int:
        if op in _NEVER:
            self._refusal = _NEVER[op]
            return apsw.SQLITE_DENY
        table = first if op in _BY_FIRST else second if op in _BY_SECOND else None
        if table is not None and (table.lower() in _OWN or table.lower().startswith(_OWN_PREFIX)):
            self._refusal = (
                f"table {table!r} is the runtime's own, as are {', '.join(sorted(_OWN))} and all that begin with "
                f"{_OWN_PREFIX!r}; give yours another name"
            )
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


class UnwantedError(Exception):
    """Nobody waits for it any more: it is rolled back."""


class WorkError(Exception):
    """What the user's function raised, apart from the store's own errors."""

    def __init__(self, raised: Exception) -> None:
        super().__init__(str(raised))
        self.raised = raised


def run_work(connection: GuardedConnection, call: TransactionCall) -> bytes:
    """Do the work in the open transaction of the connection. Raises WorkError for all that is the work's own fault."""
    try:
        payload = Guard(call).run(connection)
    except StoreError:
        raise
    except Exception as error:
        raise WorkError(error) from error
    if connection.get_autocommit():
        raise StoreError(f"{call.where}: SQLite has rolled its transaction back (a full or failing disk?)")
    return payload
