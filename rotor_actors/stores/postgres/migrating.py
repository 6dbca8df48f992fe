"""The schema, brought up to date step by step by whoever comes first; and a server looked at before it is used."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from rotor_actors.errors import StoreError, StoreUnavailableError, StoreVersionError
from rotor_actors.stores.postgres.address import quoted, within
from rotor_actors.stores.postgres.claiming import CLAIMING
from rotor_actors.stores.postgres.functions import COMMITTING, REGISTERING
from rotor_actors.stores.postgres.tables import REPLICAS, RUNS
from rotor_actors.stores.postgres.transacting import KEEPING

OLDEST_SERVER = 140_000

# The step at position i makes version i + 1 of version i. A new schema takes all of them: never change one that was
# released, add another.
STEPS_TO_VERSION = (RUNS + REPLICAS + COMMITTING + REGISTERING + CLAIMING + KEEPING,)
SCHEMA_VERSION = len(STEPS_TO_VERSION)

_ATTEMPTS = 5


async def checked_schema(connection: Any, name: str, wanted: str | None) -> str:
    """Look whether the server can be used; gives the schema to use.

    Raises:
        StoreError: it is too old, or keeps texts in another encoding than UTF-8; or the search path names no schema; or
            transactions are isolated in another way than READ COMMITTED.
        StoreUnavailableError: it is a standby, or read-only.
    """
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_version'), "
        "current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', "
        "current_schema(), current_setting('transaction_isolation')"
    )
    number, version, encoding, is_standby, is_read_only, current, isolation = row
    if number < OLDEST_SERVER:
        raise StoreError(f"{name}: the server is PostgreSQL {version}; 14 or newer is needed: upgrade it")
    if encoding != "UTF8":
        raise StoreError(f"{name}: the database keeps texts as {encoding}; create one with ENCODING 'UTF8'")
    if is_standby or is_read_only:
        why = "the server is a standby" if is_standby else "default_transaction_read_only is on"
        raise StoreUnavailableError(
            f"{name}: the database is read-only ({why}); give the URL of the primary, or of several hosts with "
            f"?target_session_attrs=read-write"
        )
    if isolation != "read committed":  # only behind a pooler: else a connection says itself what it needs
        raise StoreError(
            f"{name}: default_transaction_isolation is {isolation!r}, and behind PgBouncer a connection cannot say what it "
            f"needs: ALTER ROLE … SET default_transaction_isolation = 'read committed', for the user of this URL"
        )
    schema = wanted or current
    if schema is None:
        raise StoreError(f"{name}: the search path of this user names no schema that is there; say ?schema=…")
    return str(schema)


async def migrate(connection: Any, name: str, schema: str) -> None:
    """Create what is missing. Several that open at the same time do it one after the other.

    Raises:
        StoreVersionError: a newer program was here, or one whose steps to this version were others.
    """
    version = await schema_version(connection, name, schema)
    for attempt in range(_ATTEMPTS):
        if version == SCHEMA_VERSION:
            return
        try:
            async with connection.transaction():
                await connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended('rotor-schema ' || $1, 0))", schema
                )
                version = await schema_version(connection, name, schema)
                await _bring_up(connection, schema, version)
                version = SCHEMA_VERSION
        except Exception as error:
            # Schemas and extensions are created by others without our lock: what is there by then is looked at again.
            if getattr(error, "sqlstate", None) not in ("23505", "42P06", "42P07") or attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.1)


async def schema_version(connection: Any, name: str, schema: str) -> int:
    """Of the store in this schema; 0 where there is none.

    Raises:
        StoreVersionError: a newer program was here, or one whose steps to this version were others.
    """
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{quoted(schema)}.rotor_schema"):
        return 0
    row = await connection.fetchrow(
        within("SELECT version, to_jsonb(each)->>'made_of' FROM @.rotor_schema AS each", schema)
    )
    version: int = row[0]
    if version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{name}: schema {schema!r} has version {version}, this program knows {SCHEMA_VERSION}; nothing was changed. "
            f"Install a newer rotor-actors."
        )
    if row[1] != _made_of(version):
        raise StoreVersionError(
            f"{name}: schema {schema!r} says version {version}, but was made by other steps than this program's: by a "
            f"state of rotor-actors that was not released. Nothing was changed. Use the program that made it, or another "
            f"schema (?schema=…)."
        )
    return version


def _made_of(version: int) -> str:
    """Tells by which steps a schema was made; there are several ways to a version that was never released."""
    return hashlib.sha256("\0".join(STEPS_TO_VERSION[:version]).encode()).hexdigest()[:16]


async def _bring_up(connection: Any, schema: str, version: int) -> None:
    if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quoted(schema)):
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    if version == 0:
        await connection.execute(
            within("CREATE TABLE @.rotor_schema(version integer NOT NULL, made_of text NOT NULL)", schema)
        )
        await connection.execute(within("INSERT INTO @.rotor_schema VALUES (0, '')", schema))
    for step in STEPS_TO_VERSION[version:]:
        await connection.execute(within(step, schema))
    await connection.execute(
        within("UPDATE @.rotor_schema SET version = $1, made_of = $2", schema), SCHEMA_VERSION, _made_of(SCHEMA_VERSION)
    )
