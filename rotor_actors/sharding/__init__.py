"""One runtime over several stores: each tree of runs lives in one of them, chosen by a hash of its root's run id."""

from rotor_actors.sharding.placement import Shard

__all__ = ["Shard"]
