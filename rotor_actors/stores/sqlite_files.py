"""The SQLite file as a file: is it ours, create it, copy it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw

from rotor_actors.errors import StoreCorruptedError, StoreError, StoreVersionError
from rotor_actors.stores import schema
from rotor_actors.stores.files import Files, RealFiles
from rotor_actors.stores.sqlite_connection import Connection, close, connect

_MAGIC = b"SQLite format 3\0"
_PAGES_PER_STEP = 10_000
_SIZE_WHEN_NEW = 256 * 1024


def check_place(path: Path, files: Files) -> None:
    """Raise StoreError when there can be no store file there."""
    if files.is_directory(path):
        raise StoreError(f"{path} is a directory: give the store a file, as in {path / 'rotor.db'}")
    if not files.is_directory(path.parent):
        raise StoreError(f"cannot open {path}: its directory does not exist; create {path.parent} first")


def make_durable(path: Path, files: Files) -> None:
    """See to it that what will be read is what a power cut would leave.

    A process that died may have left frames in the WAL that were never synced, or whose sync has failed: the system
    then takes them for clean, shows them to whoever reads, and never tries again. Who builds on them loses, with the
    next power cut, all that was committed after them. Written once more they are dirty again, and the sync says so if
    they do not reach the disk. The file itself is only concerned while it is created; later it follows the WAL.
    `test_what_a_failed_sync_left_is_made_durable_before_it_is_believed` guards it.
    """
    for each, limit in ((path.with_name(path.name + "-wal"), None), (path, _SIZE_WHEN_NEW)):
        size = files.size(each)
        if size and (limit is None or size <= limit):
            with suppress(PermissionError):  # a file that cannot be written is refused by name, in a moment
                files.rewrite(each)


def check_format(path: Path, files: Files) -> None:
    """Raise when an existing file is not one of ours, or of a newer version. It is looked at, not changed."""
    if not files.size(path):
        return
    check_magic(path, files)
    connection = connect(path, apsw.SQLITE_OPEN_READONLY, files.vfs)
    try:
        _check(connection, path)
    except (apsw.ReadOnlyError, apsw.CantOpenError):
        # It has to be recovered before it can be read (a power cut while it was created): nothing else is touched.
        close(connection)
        connection = connect(path, apsw.SQLITE_OPEN_READWRITE, files.vfs)
        _check(connection, path)
    finally:
        close(connection)


def check_magic(path: Path, files: Files) -> None:
    """Raise when it is no SQLite file: SQLite takes one of a few bytes for an empty one, and would overwrite it."""
    if files.head(path, len(_MAGIC)) != _MAGIC:
        raise StoreCorruptedError(
            f"{path} is not a database, or its header is damaged; nothing was changed. Restore a backup, or give "
            f"the runtime another file."
        )


def check_readable(connection: Connection, path: Path) -> None:
    """Raise unless it is a store of just this version: who only looks cannot bring it up to date."""
    _check(connection, path)
    version = connection.pragma("user_version")
    if version < schema.SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program reads {schema.SCHEMA_VERSION}: let a runtime of this "
            f"version open it once, which brings it up to date"
        )


def _check(connection: Connection, path: Path) -> None:
    application_id = connection.pragma("application_id")
    version = connection.pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application_id != schema.APPLICATION_ID and (tables or version or application_id):
        raise StoreCorruptedError(
            f"{path} is a database of another program (application id {application_id:#x}, expected "
            f"{schema.APPLICATION_ID:#x}); nothing was changed. Give the runtime a file of its own."
        )
    if version > schema.SCHEMA_VERSION:
        raise StoreVersionError(
            f"{path} has schema version {version}, this program knows {schema.SCHEMA_VERSION}; nothing was changed. "
            f"Install a newer rotor-actors."
        )


def create(connection: Connection) -> None:
    """Create the tables in a new file, or what an older version of them lacks, all or none."""
    version = connection.pragma("user_version")
    if version < schema.SCHEMA_VERSION:
        with connection:
            for step in schema.STEPS_TO_VERSION[version:]:
                connection.execute(step)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")


def backup(connection: Connection, target: Path, files: Files) -> None:
    """Copy what the connection sees to `target`. It gets its name when it is complete: half a copy never has it."""
    refuse_existing(target, files)
    partial = target.with_name(target.name + ".partial")
    try:
        files.remove(partial)
        copy = connect(partial, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, files.vfs)
        try:
            with copy.backup("main", connection, "main") as under_way:
                while not under_way.done:
                    under_way.step(_PAGES_PER_STEP)
        finally:
            copy.close()
        files.link(partial, target)  # unlike a rename, it never takes the place of another file
    except OSError as error:
        raise StoreError(f"backup to {target}: {error}") from error
    finally:
        files.remove(partial)


def refuse_existing(target: Path, files: Files | None = None) -> None:
    """Raise StoreError when a backup cannot get this name."""
    files = files or RealFiles()
    if files.size(target) is not None:
        raise StoreError(f"backup to {target}: the file exists; name a new one")
    if not files.is_directory(target.parent):
        raise StoreError(f"backup to {target}: its directory does not exist; create {target.parent} first")
