"""What the shell needs to know to perform a step; the state machine passes it through unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.payload import Codec
from rotor_actors.retry import RetryPolicy


class RunSpec(msgspec.Struct, frozen=True):
    """`step.run`."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    timeout: float
    policy: RetryPolicy | None
    codec: Codec


class InvokeSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.invoke` and its relatives."""

    workflow_id: str
    data: bytes | None
    timeout: float
    headers: bytes | None = None
    retries: bytes | None = None
    abandon: bool = False
    run_id: str | None = None


class SleepSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.sleep` and `step.sleep_until`: when it ends."""

    due: float
