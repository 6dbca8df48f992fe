"""The tables of users of a store in memory: a SQLite database without a file."""

from __future__ import annotations

from typing import Any, cast

import apsw

from rotor_actors.stores.transaction import GuardedConnection, TransactionCall, run_work


class MemoryDatabase:
    """Made when it is first needed, and copied with its store, as a crash in a test does."""

    def __init__(self) -> None:
        self._connection: Any = None

    def __deepcopy__(self, memo: object) -> MemoryDatabase:
        copy = MemoryDatabase()
        if self._connection is not None:
            copy.connection.deserialize("main", self._connection.serialize("main"))
        return copy

    @property
    def connection(self) -> Any:
        if self._connection is None:
            self._connection = apsw.Connection(":memory:")
        return self._connection

    def transact(self, call: TransactionCall) -> bytes:
        """Do the work, all or nothing of it. Raises as `TransactionalStore.transact` does."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            payload = run_work(cast(GuardedConnection, connection), call)
            connection.execute("COMMIT")
        except BaseException:
            if not connection.get_autocommit():
                connection.execute("ROLLBACK")
            raise
        return payload
