"""The names of all shards, which each shard keeps: so that none can be forgotten, nor one be opened as if it were all."""

from __future__ import annotations

import msgspec

from rotor_actors.errors import StoreError
from rotor_actors.records import ItemPut, ItemRow
from rotor_actors.stores.base import StoreReader

_SPACE, _KEY = "shards", "names"


def names_in(store: StoreReader) -> list[str]:
    """Of all the shards that this one is of; none if it never was one."""
    item = store.item(_SPACE, _KEY)
    return [] if item is None or item.body is None else msgspec.msgpack.decode(item.body, type=list[str])


def names_put(names: list[str]) -> ItemPut:
    """The entry that keeps them."""
    return ItemPut(ItemRow(_SPACE, _KEY, msgspec.msgpack.encode(names)))


def check_is_no_shard(store: StoreReader) -> None:
    """Raise StoreError where what is opened alone is one of several."""
    names = names_in(store)
    if len(names) > 1:
        raise StoreError(
            f"this store is one of the shards {', '.join(names)}: opened alone, runs of the others would not be found, and "
            f"ids, keys and schedules be started twice; give all of them: Runtime([…]), or --store 'URL URL'"
        )
