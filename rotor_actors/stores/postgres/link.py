"""One connection to the database, made when it is needed, and used by one caller at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rotor_actors.errors import StoreError
from rotor_actors.stores.postgres.address import Address
from rotor_actors.stores.postgres.faults import translated

T = TypeVar("T")

CONNECT_SECONDS = 10.0

# What our statements rely on, whatever is the default of the database or of the user: each statement of a function sees
# what others have committed while it waited for a lock, and a backslash in a text is one.
# Statements, not settings that are sent on connecting: PgBouncer in session mode refuses those that it does not know.
_RELIED_ON = """
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET standard_conforming_strings = on
"""


def driver() -> Any:
    """asyncpg, which is loaded by the first store that is opened."""
    try:
        import asyncpg
    except ImportError as error:
        raise StoreError(
            "a PostgreSQL store needs asyncpg, which is not installed: pip install 'rotor-actors[postgres]'"
        ) from error
    return asyncpg


class Link:
    """A connection of an event loop's own.

    One that was lost while nobody used it is made anew by the next use. What is under way when it is lost fails.

    Args:
        purpose: shown by the server, in pg_stat_activity.
        timeout: seconds after which a call that got no answer fails.
        is_cached: statements are prepared once; never so behind a pooler.
        is_ours: no statements of users come here.
    """

    def __init__(
        self, address: Address, purpose: str, timeout: float, *, is_cached: bool = True, is_ours: bool = True
    ) -> None:
        self._address = address
        self._purpose = purpose
        self._timeout = timeout
        self._is_cached = is_cached and not address.is_pooled
        self._is_ours = is_ours
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self._is_closed = False

    async def use(self, doing: str, act: Callable[[Any], Awaitable[T]], timeout: float | None = None) -> T:
        """Do something with the connection when it is free; whatever goes wrong is raised as one of our errors."""
        try:
            async with self._turn, asyncio.timeout(timeout or self._timeout):
                return await act(await self._ready())
        except Exception as error:
            raise translated(doing, self._address.name, error) from error

    async def raw(self, act: Callable[[Any], Awaitable[T]]) -> T:
        """As `use`, but what goes wrong is raised as it is."""
        async with self._turn, asyncio.timeout(self._timeout):
            return await act(await self._ready())

    async def rename(self, connection: Any, purpose: str) -> None:
        """What it is for is known better now."""
        self._purpose = purpose
        if not self._address.is_pooled:
            await connection.execute("SELECT set_config('application_name', $1, false)", f"rotor {purpose}")

    async def _ready(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            connection = await self._connect()
            if self._is_closed:  # meanwhile: nobody would ever hang up
                connection.terminate()
                raise StoreError(f"{self._address.name}: the store was closed meanwhile")
            self._connection = connection
        return self._connection

    async def _connect(self) -> Any:
        # Behind a pooler a session's own statements and settings are not there with the next statement.
        cache: dict[str, Any] = {} if self._is_cached else {"statement_cache_size": 0}
        settings = {} if self._address.is_pooled else {"application_name": f"rotor {self._purpose}"}
        connection = await driver().connect(
            self._address.dsn, timeout=min(CONNECT_SECONDS, self._timeout), server_settings=settings, **cache
        )
        if self._is_ours and not self._address.is_pooled:
            try:
                await connection.execute(_RELIED_ON)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def close(self) -> None:
        """Say good-bye, or if nobody listens, hang up. It is not used again."""
        self._is_closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=2)
            except Exception:
                connection.terminate()

    def cut(self) -> None:
        """Hang up at once."""
        if self._connection is not None:
            self._connection.terminate()
