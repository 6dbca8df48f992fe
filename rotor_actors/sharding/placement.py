"""Which shard a new tree of runs goes to. Pure.

By rendezvous hashing: each shard has a weight for each key, the heaviest is chosen. A further shard takes its share of
new keys from all others, and no key moves between those that were there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import parse_qsl, urlsplit

from rotor_actors.ids import Ids
from rotor_actors.stores.base import Store
from rotor_actors.workflows import Workflow

MOST_SHARDS = 1024
_PATH_KEYS = ("data", "data.")


@dataclass(frozen=True)
class Shard:
    """One store of several.

    Args:
        store: as of `Runtime`.
        name: what the shard is known by, for good: new trees are placed by a hash of it. Unless given, a URL has its
            host, port, database and schema as its name, a file its path, any other store its place in the list.
        takes_new: False: new trees go elsewhere; those that are here go on. Before a shard is removed; and while a new
            one is made known to all replicas.
    """

    store: str | os.PathLike[str] | Store
    name: str = ""
    takes_new: bool = True


def named(shards: Sequence[object]) -> tuple[Shard, ...]:
    """What `Runtime` was given, each with a name.

    Raises:
        ValueError: none, too many, two of one name, or none that takes new trees.
    """
    given = [each if isinstance(each, Shard) else Shard(each) for each in shards]  # type: ignore[arg-type]
    found = tuple(
        Shard(each.store, each.name or _name_of(each.store, at), each.takes_new) for at, each in enumerate(given)
    )
    names = [each.name for each in found]
    if not 1 <= len(found) <= MOST_SHARDS:
        raise ValueError(f"a runtime has 1 to {MOST_SHARDS} shards, got {len(found)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two shards are called {', '.join(twice)}: give each database once, or Shard(store, name=…)")
    if not any(each.takes_new for each in found):
        raise ValueError("no shard takes new runs: leave out takes_new=False for one of them")
    return found


def _name_of(store: object, at: int) -> str:
    if isinstance(store, str) and "://" in store:
        parts = urlsplit(store)
        schema = dict(parse_qsl(parts.query)).get("schema")
        name = f"{parts.netloc.rpartition('@')[2]}{parts.path}"  # never the password
        return f"{name}?schema={schema}" if schema else name
    if isinstance(store, str | os.PathLike) and store != ":memory:":
        return os.path.realpath(os.fspath(store))
    return str(at)


class Placement:
    """Where keys belong, among so many shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._names = [each.name.encode() for each in shards]
        self._open = [at for at, each in enumerate(shards) if each.takes_new]

    def __len__(self) -> int:
        return len(self._names)

    def shard_of(self, key: str) -> int:
        """The shard of a new tree with this root, or of whatever else has a name."""
        if len(self._open) == 1:
            return self._open[0]
        encoded = key.encode()
        return max(self._open, key=lambda at: _weight(self._names[at], encoded))

    def home_of(self, workflow: Workflow[object, object]) -> int:
        """The one shard where a workflow's rules hold for all starts, and its schedule runs: that of a key which
        several workflows share is the same for all of them."""
        control = None if workflow.rules is None else workflow.rules.flow_control
        if control is not None and control.key != _PATH_KEYS[0] and not control.key.startswith(_PATH_KEYS[1]):
            return self.shard_of(f"key {control.key}")
        return self.shard_of(f"workflow {workflow.id}")

    def order_of(self, run_id: str) -> Iterator[int]:
        """All shards, the likeliest first: a root of today's is in its own; a child is where its root is."""
        first = self.shard_of(run_id)
        yield first
        yield from (at for at in range(len(self)) if at != first)

    def any_open(self, rng: random.Random) -> int:
        """A shard for one more tree, all equally likely."""
        return self._open[0] if len(self._open) == 1 else rng.choice(self._open)


def _weight(name: bytes, key: bytes) -> bytes:
    return blake2b(key, key=blake2b(name, digest_size=32).digest(), digest_size=8).digest()


class ShardIds:
    """New run ids that say by their hash which shard they belong to: made until one does.

    A shard that takes no new trees may still have to name a run (a restart): then any id will do.
    """

    def __init__(self, ids: Ids, placement: Placement, at: int, *, takes_new: bool) -> None:
        self._ids = ids
        self._placement = placement
        self._at = at
        self._takes_new = takes_new

    def new_run_id(self, now: float) -> str:
        run_id = self._ids.new_run_id(now)
        while self._takes_new and self._placement.shard_of(run_id) != self._at:
            run_id = self._ids.new_run_id(now)
        return run_id
