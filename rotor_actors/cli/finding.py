"""What `rotor doctor` finds."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    check: str
    state: str
    found: str
    remedy: str = ""
