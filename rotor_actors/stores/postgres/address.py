"""Where the database is: the URL taken apart, our own options taken out, and checked by name."""

from __future__ import annotations

import re
import zlib
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from rotor_actors.errors import StoreError
from rotor_actors.stores.urls import without_password

SCHEMES = ("postgresql", "postgres")
_EXAMPLE = "postgresql://user:password@host:5432/database?schema=rotor"
_OURS = ("schema", "pgbouncer")
_ARGUMENTS = ("lease", "timeout")
_SEVERAL = re.compile(r"\spostgres(ql)?://", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PORT = re.compile(r"(?:\[[^\[\]@]*\]|[^\[\]:@]*)(?::(\d*))?")
_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Address(msgspec.Struct, frozen=True):
    """A database and the schema in it.

    Attributes:
        dsn: what asyncpg is given.
        schema: the schema that the tables are in; None for the first of the connection's search path.
        is_pooled: connections go through PgBouncer in transaction mode: a statement may meet another server process
            than the one before.
        name: for messages: without the password.
    """

    dsn: str
    schema: str | None
    is_pooled: bool
    name: str

    def __repr__(self) -> str:
        return f"Address({self.name!r}, schema={self.schema!r}, is_pooled={self.is_pooled})"


def is_postgres(url: str) -> bool:
    """Does the text name a PostgreSQL database?"""
    return url.partition("://")[0].lower() in SCHEMES and "://" in url


def parsed(url: str, schema: str | None = None, is_pooled: bool | None = None) -> Address:
    """The URL of a database. `schema` and `is_pooled`, where given, are in place of the URL's own options.

    Raises:
        StoreError: it is no such URL; the message says what is wrong with it, without its password.
    """
    if not isinstance(url, str) or not is_postgres(url):
        got = repr(without_password(url) if isinstance(url, str) else url)
        raise StoreError(f"expected the URL of a PostgreSQL database, such as {_EXAMPLE}; got {got}")
    if _SEVERAL.search(url):
        raise StoreError("several databases in one text: give a list of URLs, Runtime([url, url])")
    try:
        parts = urlsplit(url)
    except ValueError:  # what it says may hold the password
        parts = None
    if parts is None or not _are_hosts(parts.netloc.rpartition("@")[2]):
        raise StoreError(
            f"{without_password(url)}: not a URL: it looks like {_EXAMPLE}; / ? # @ : [ ] % in a user or a password are "
            f"written as %2F %3F %23 %40 %3A %5B %5D %25, and a port is a number up to 65535"
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = {key: value for key, value in options if key in _OURS}
    for key, _ in options:
        if key in _ARGUMENTS:
            raise StoreError(f"{without_password(url)}: {key} is no option of a URL: PostgresStore(url, {key}=…)")
    dsn = urlunsplit(parts._replace(query=urlencode([each for each in options if each[0] not in _OURS])))
    name = without_password(dsn)
    chosen = schema if schema is not None else ours.get("schema")
    if chosen is not None and not _NAME.fullmatch(chosen):
        raise StoreError(
            f"{name}: schema {chosen!r} cannot be used: a name has letters, digits and underscores, does not begin with "
            f"a digit, and has at most 63 of them"
        )
    return Address(dsn, chosen, _pooled(name, ours) if is_pooled is None else is_pooled, name)


def _pooled(name: str, ours: dict[str, str]) -> bool:
    value = ours.get("pgbouncer", "0").lower()
    if value not in _YES_OR_NO:
        raise StoreError(f"{name}: pgbouncer={value!r}: write pgbouncer=1 behind PgBouncer in transaction mode, else 0")
    return _YES_OR_NO[value]


def _are_hosts(text: str) -> bool:
    """One host, or several with commas between them."""
    ports = [_PORT.fullmatch(each) for each in text.split(",")]
    return all(port is not None and int(port[1] or 0) < 65_536 for port in ports)


def channel(schema: str, replica: int) -> str:
    """What a replica listens to; 0 for what all do."""
    return f"rotor_{zlib.crc32(schema.encode()):08x}_{replica}"


def quoted(schema: str) -> str:
    """As an identifier in a statement."""
    return '"' + schema.replace('"', '""') + '"'


def within(sql: str, schema: str) -> str:
    """The statement with its `@.` replaced: no setting of a connection decides where the tables are."""
    return sql.replace("@.", quoted(schema) + ".")
