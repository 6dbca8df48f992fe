"""What an engine is given from outside: its ports to the world, and how it is to behave."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.clock import Clock
from rotor_actors.executor import Executor
from rotor_actors.ids import Ids
from rotor_actors.observing import Observers
from rotor_actors.retention import Retention
from rotor_actors.step_runner import StepRunner
from rotor_actors.stores.base import Store
from rotor_actors.workflows import Workflow


class Options(msgspec.Struct, frozen=True):
    """What `Runtime` was told; durations in seconds."""

    max_depth: int | None = 100
    cancel_grace: float = 5.0
    drain_timeout: float = 10.0
    max_active_runs: int | None = None
    strict_replay: bool = False
    payload_limit: int = 4 * 2**20
    max_recoveries: int = 10
    retention: Retention | None = None
    remember_event_ids: float = 86_400.0
    label: str = ""
    spill_above: int | None = None
    is_visitor: bool = False
    """Many replicas: it runs nothing and coordinates nothing; it is there to tell runs something."""
    is_shell: bool = False
    """Many replicas: it is there for a run of its own, and offers to run only what no other replica offers."""
    is_home: Callable[[Workflow[Any, Any], str], bool] | None = None
    """Of several stores: is it this one where the workflow's schedule runs, and where an event of this id starts it?"""
    forward: Callable[[], None] | None = None
    """Of several stores: what steps send is to go to the others, and this says that there is some."""


class Ports(msgspec.Struct):
    """What the engine gets from outside: time, chance, names, a disk, and where blocking calls are made."""

    clock: Clock
    ids: Ids
    rng: random.Random
    store: Store
    writer: Executor
    reader: Executor
    observers: Observers = msgspec.field(default_factory=lambda: Observers(()))
    step_runners: dict[str, StepRunner] = {}
