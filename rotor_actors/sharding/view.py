"""All shards as seen by somebody who runs none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from rotor_actors.sharding.placement import Placement, Shard
from rotor_actors.sharding.reading import MergedReader, MergedSharedReader
from rotor_actors.stores.base import StoreReader, StoreView
from rotor_actors.stores.shared import SharedView, is_shared_view

T = TypeVar("T")


def view_of(shards: Sequence[Shard], views: Sequence[StoreView]) -> StoreView:
    """A view of all shards: of their replicas, too, where each is a store that replicas share."""
    shared = [view for view in views if is_shared_view(view)]
    return SharedShardsView(shards, shared) if len(shared) == len(views) else ShardsView(shards, views)


class ShardsView(MergedReader):
    """A `StoreView` over several.

    Args:
        shards: as given to `Runtime`, named. views: of each.
    """

    def __init__(self, shards: Sequence[Shard], views: Sequence[StoreView]) -> None:
        names = [each.name for each in shards]
        super().__init__([partial(_ask, view) for view in views], names, Placement(shards))
        self._shards = shards
        self._views = views
        self.is_inline = all(view.is_inline for view in views)
        self.path = ", ".join(names)

    def open(self) -> None:
        """All of them. Raises what the view that cannot be opened raises."""
        try:
            for view in self._views:
                view.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for view in self._views:
            view.close()


class SharedShardsView(ShardsView, MergedSharedReader):
    """The same of stores that replicas share."""

    def __init__(self, shards: Sequence[Shard], views: Sequence[SharedView]) -> None:
        super().__init__(shards, views)
        self._shared = views

    def replica_store(self) -> list[Shard]:
        """What `Runtime` takes, to tell runs something."""
        return [
            Shard(view.replica_store(), shard.name, shard.takes_new)
            for shard, view in zip(self._shards, self._shared, strict=True)
        ]


def _ask(store: StoreReader, read: Callable[[Any], T]) -> T:
    return read(store)
