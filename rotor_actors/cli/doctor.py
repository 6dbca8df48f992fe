"""`rotor doctor`: looks at what a runtime needs, and says what to do where something is missing."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from rotor_actors.cli.finding import Finding
from rotor_actors.cli.main import DONE, FAILED
from rotor_actors.cli.output import is_clipped, print_rows
from rotor_actors.cli.shared_doctor import shared_store
from rotor_actors.cli.stores import has_one_owner
from rotor_actors.control import ControlError, ControlTimeoutError, ask, is_possible
from rotor_actors.errors import RotorError, StoreLockedError
from rotor_actors.records import RunStatus
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.stores.sqlite import SQLiteStore

_PATIENCE = "5s"
_LITTLE_ROOM = 512 * 2**20


def doctor(options: argparse.Namespace) -> int:
    """Look at everything, even when something is wrong already."""
    of_machine: list[Callable[[Path], Iterator[Finding]]] = [_python, _packages, _clock]
    of_file = [_disk, _locking, _store, _owner]
    checks: list[Callable[[], Iterator[Finding]]]
    if has_one_owner(options.store):
        checks = [partial(check, Path(options.store)) for check in (*of_machine, *of_file)]
    else:
        checks = [*(partial(check, Path()) for check in of_machine), partial(shared_store, options.store)]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check())
        except Exception as error:
            name = check.func.__name__ if isinstance(check, partial) else "check"
            findings.append(Finding(name.strip("_"), "problem", f"{type(error).__name__}: {error}"))
    print_rows([finding._asdict() for finding in findings], Finding._fields, options.output)
    if options.output == "table":
        for finding in findings:
            if finding.state != "ok" and is_clipped(finding.found, finding.remedy):
                print(f"\n{finding.check}: {finding.found}" + f"\n  {finding.remedy}" * bool(finding.remedy))
    return FAILED if any(finding.state == "problem" for finding in findings) else DONE


def _python(_: Path) -> Iterator[Finding]:
    version = platform.python_version()
    supported = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if supported else "problem", f"{version} on {sys.platform}",
                  "" if supported else "use Python 3.11 or newer")  # fmt: skip
    try:
        loop = f"uvloop {metadata.version('uvloop')} can be used"
        state, remedy = "ok", ""
    except metadata.PackageNotFoundError:
        loop, state, remedy = "asyncio's own", "ok", "the extra 'uvloop' is a little faster"
    yield Finding("event loop", state, loop, remedy)


def _packages(_: Path) -> Iterator[Finding]:
    for name in ("rotor-actors", "msgspec", "anyio", "aiorwlock", "apsw"):
        yield Finding(name, "ok", metadata.version(name))
    import apsw

    yield Finding("sqlite", "ok", f"{apsw.sqlite_lib_version()}, its own")


def _clock(_: Path) -> Iterator[Finding]:
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.05)
    skew = abs((time.time() - wall) - (time.monotonic() - steady))
    fine = skew < 0.02
    yield Finding("clock", "ok" if fine else "warning", f"wall and monotonic clock apart by {skew * 1000:.1f} ms in 50 ms",
                  "" if fine else "the clock is being stepped: see that NTP slews it")  # fmt: skip


def _disk(path: Path) -> Iterator[Finding]:
    place = path.resolve().parent
    if not place.is_dir():
        yield Finding("place", "problem", f"{place} is no directory", f"mkdir -p {place}")
        return
    writable = os.access(place, os.W_OK)
    yield Finding("place", "ok" if writable else "problem", str(place), "" if writable else "give write permission")
    free = shutil.disk_usage(place).free
    yield Finding("room", "ok" if free > _LITTLE_ROOM else "warning", f"{free / 2**30:.1f} GiB free",
                  "" if free > _LITTLE_ROOM else "make room: on a full disk nothing new is accepted")  # fmt: skip


def _locking(path: Path) -> Iterator[Finding]:
    """WAL and locks, tried where the store is: network file systems often have neither."""
    place = path.resolve().parent
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None, prefix=".rotor-doctor-") as directory:
        trial = Path(directory) / "trial.db"
        first, second = SQLiteStore(trial), SQLiteStore(trial)
        first.open()
        try:
            yield Finding("WAL mode", "ok", "works here")
            try:
                second.open()
            except StoreLockedError:
                yield Finding("file lock", "ok", "a second owner is refused")
            else:
                second.close()
                yield Finding("file lock", "problem", "a second owner was let in", "keep the store on a local disk")
        finally:
            first.close()


def _store(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("store", "ok", f"{path} does not exist yet")
        return

    async def look() -> dict[RunStatus, int]:
        async with RuntimeView(path) as view:
            return await view.count()

    try:
        counts = asyncio.run(look())
    except RotorError as error:
        yield Finding(
            "store", "problem", f"{type(error).__name__}: {error}", "restore a backup, or use the right version"
        )
        return
    said = ", ".join(f"{count} {status.value}" for status, count in counts.items()) or "no runs"
    yield Finding("store", "ok", f"{path}: {said}")
    wal = Path(f"{path}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    yield Finding("WAL file", "ok" if size < 512 * 2**20 else "warning", f"{size / 2**20:.1f} MiB",
                  "" if size < 512 * 2**20 else "a reader has kept a snapshot open for long: close it")  # fmt: skip


def _owner(path: Path) -> Iterator[Finding]:
    if not path.exists() or not is_possible():
        return
    try:
        owner = ask(path, "ping", within=_PATIENCE)
    except ControlTimeoutError:
        yield Finding("owner", "problem", f"the process that has the store open does not answer within {_PATIENCE}",
                      "its event loop is blocked: look where (py-spy dump), and put what blocks into a sync step")  # fmt: skip
        return
    except ControlError:
        yield Finding("owner", "ok", "no process has the store open")
        return
    yield Finding("owner", "ok", f"pid {owner['pid']} answers; workflows: {', '.join(owner['workflows']) or 'none'}")
