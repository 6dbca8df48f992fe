"""SQLite's errors, translated once, at the edge."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from rotor_actors.errors import StoreCorruptedError, StoreError, StoreFullError


@contextmanager
def translated(doing: str, path: Path) -> Generator[None]:
    """Raise our own errors, which say what to do, in place of apsw's."""
    try:
        yield
    except (StoreError, OSError):
        raise
    except apsw.FullError as error:
        raise StoreFullError(f"{doing} {path}: the disk is full; make room, it goes on by itself") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise StoreCorruptedError(
            f"{doing} {path}: not a database of ours, or damaged ({error}); restore a backup, or give another file"
        ) from error
    except apsw.ReadOnlyError as error:
        raise StoreError(f"{doing} {path}: it is read-only ({error}); make it and its directory writable") from error
    except apsw.CantOpenError as error:
        raise StoreError(f"{doing} {path}: cannot be opened ({error}); check its directory and permissions") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StoreError(f"{doing} {path}: another program holds a lock on it ({error}); let it finish") from error
    except apsw.Error as error:
        raise StoreError(f"{doing} {path} failed: {type(error).__name__}: {error}") from error
    except UnicodeEncodeError as error:  # what was asked for, not what was found
        raise ValueError(f"{doing} {path}: {error.object!r} is no text that a store could hold ({error})") from error
    except ValueError as error:  # a text that is not UTF-8, a status that there is not
        raise StoreCorruptedError(
            f"{doing} {path}: a row cannot be understood ({error}): the file was damaged. Restore a backup."
        ) from error
