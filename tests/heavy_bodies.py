"""Bodies of steps that other processes import, by name."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class PrivateError(Exception):
    """Of the program's own."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(what, number)
        self.number = number


def whoami(_: object = None) -> int:
    return os.getpid()


def double(number: int) -> int:
    return number * 2


async def doubled_later(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def fail(what: str) -> None:
    raise PrivateError(what, 7)


def leave(code: int) -> None:
    os._exit(code)


def exit_politely(code: int) -> None:
    sys.exit(code)


def interrupt_itself() -> None:
    raise KeyboardInterrupt


def chatter() -> str:
    """What a program that is started says goes to standard output, as ever."""
    subprocess.run([sys.executable, "-c", "print('from a tool')"], check=True)
    print("from the step")
    return "said"


def open_file(path: str) -> object:
    return open(path)


def note(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(f"{text}\n")
        file.flush()


def note_and_hang(path: str) -> None:
    note(path, str(os.getpid()))
    time.sleep(300)


def hang_with_a_child(path: str) -> None:
    """It has started a program of its own, which must not survive it either."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    note(path, f"{os.getpid()} {child.pid}")
    child.wait()


def hang_once(path: str) -> str:
    """The first execution never ends."""
    note(path, str(os.getpid()))
    if len(Path(path).read_text().split()) == 1:
        time.sleep(300)
    return "done"


def die_once(path: str) -> str:
    note(path, str(os.getpid()))
    if len(Path(path).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def is_alive(pid: int) -> bool:
    """A zombie is none: it was ended, and waits for its parent to look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
