"""Names of steps and runs: pure functions where they must be the same again, a port where they must be new."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Protocol


class Ids(Protocol):
    """Where new run ids come from."""

    def new_run_id(self, now: float) -> str: ...


class RandomIds:
    """Time-ordered UUIDs (version 7): 48 bits of milliseconds, then 74 random bits.

    Args:
        rng: the source of chance; a seeded one makes the ids repeatable.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def new_run_id(self, now: float) -> str:
        value = (int(now * 1000) & 0xFFFF_FFFF_FFFF) << 80 | self._rng.getrandbits(80)
        return _as_uuid(f"{value:032x}", "7")


def is_storable(text: str) -> bool:
    """Lone surrogates are no text that a store could keep."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_run_id(run_id: str) -> str:
    """A run id of the caller's choice.

    Raises:
        ValueError: it is not a string of 1 to 200 characters.
    """
    if not isinstance(run_id, str) or not 1 <= len(run_id) <= 200 or not is_storable(run_id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"run_id must be a string of 1 to 200 characters, e.g. 'order-7'; got {run_id!r}")
    return run_id


KEY_BYTES = 16
"""How long the key of a step is."""


def step_key(step_id: str, counter: int) -> bytes:
    """The memo key of the `counter`-th use (from 0) of `step_id` in a run: a hash of `stepId:counter`."""
    return blake2b(f"{step_id}:{counter}".encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def patch_key(name: str) -> bytes:
    """The memo key of a patch, which no step's can be."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, person=b"patch").digest()


def map_child_key(map_key: bytes, index: int) -> bytes:
    """The memo key of a map's child: longer than any other, so that a key says whether, and of which map, it is one."""
    return map_key + index.to_bytes(6, "big")


def is_map_child(key: bytes) -> bool:
    """Is it the key of a map's child?"""
    return len(key) > KEY_BYTES


def map_key_of(key: bytes) -> bytes:
    """The key of the map that a child belongs to."""
    return key[:KEY_BYTES]


def map_index_of(key: bytes) -> int:
    """The place of a map's child among the items, from 0."""
    return int.from_bytes(key[KEY_BYTES:], "big")


def child_run_id(parent_run_id: str, key: bytes, generation: int) -> str:
    """The run id of a child: a pure function of its place, so that it is stable over crashes.

    `generation` counts from 1; it grows only when the parent's own scope withdrew the child before.
    """
    digest = blake2b(f"{parent_run_id}:{generation}:".encode() + key, digest_size=16).hexdigest()
    return _as_uuid(digest, "8")


def handler_run_id(run_id: str, event: str) -> str:
    """The run id of a run's `on_cancel` or `on_failure` handler: at most one of each for a run."""
    return _as_uuid(blake2b(f"{run_id}:{event}".encode(), digest_size=16).hexdigest(), "8")


def scheduled_run_id(workflow_id: str, moment: str) -> str:
    """The run id of a scheduled start: at most one for each time of each workflow."""
    return _as_uuid(blake2b(f"{workflow_id}:cron:{moment}".encode(), digest_size=16).hexdigest(), "8")


def derived_id(run_id: str, key: bytes, number: int) -> str:
    """The id of an event that a step sends: a pure function of its place."""
    digest = blake2b(f"{run_id}:event:{number}:".encode() + key, digest_size=16).hexdigest()
    return _as_uuid(digest, "8")


def _as_uuid(digits: str, version: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
