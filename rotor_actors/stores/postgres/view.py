"""A PostgreSQL store as seen by somebody who is no replica."""

from __future__ import annotations

from typing import Any

from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import StoreError
from rotor_actors.stores.postgres.address import parsed
from rotor_actors.stores.postgres.link import Link, driver
from rotor_actors.stores.postgres.migrating import SCHEMA_VERSION, schema_version
from rotor_actors.stores.postgres.reader import PostgresReader
from rotor_actors.stores.postgres.store import PostgresStore


class PostgresView(PostgresReader):
    """Reads the store beside its replicas, or with none. A standby will do: it shows what has come to it.

    Args:
        url: as of `PostgresStore`. timeout: after how long a call that got no answer is given up.
    """

    def __init__(self, url: str, *, timeout: Duration = "60s") -> None:
        super().__init__(parsed(url), seconds(timeout, name="timeout", exclusive=True))
        self._url = url

    @property
    def path(self) -> str:
        """What it is called: the URL without the password."""
        return self.name

    def open(self) -> None:
        """Connect, and look whether there is a store.

        Raises:
            StoreError: there is none in this schema, or an older one that no replica has opened since.
            StoreUnavailableError: the server does not answer. StoreVersionError: a newer program wrote it.
        """
        driver()
        self._io.start()
        try:
            self._io.call(self._open())
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        link = self._reader = Link(self._address, "view", self._timeout)
        await link.use("look at", self._check)

    async def _check(self, connection: Any) -> None:
        schema = self._address.schema or await connection.fetchval("SELECT current_schema()")
        version = 0 if schema is None else await schema_version(connection, self.name, schema)
        if version == 0:
            raise StoreError(
                f"{self.name}: there is no store to look at in schema {schema!r}; open a Runtime on it first"
            )
        if version < SCHEMA_VERSION:
            raise StoreError(
                f"{self.name}: the store in schema {schema!r} is of version {version}, this program looks at "
                f"{SCHEMA_VERSION}: open a Runtime on it, which brings it up"
            )
        self._schema = schema

    def close(self) -> None:
        """Closing twice is fine."""
        link, self._reader = self._reader, None
        if self._io.is_running and link is not None:
            self._io.call(link.close())
        self._io.stop()

    def replica_store(self) -> PostgresStore:
        """See `stores.shared.SharedView`."""
        return PostgresStore(self._url)
