"""The port through which an attempt of a run reaches the engine."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from rotor_actors.durations import Duration
from rotor_actors.events.expression import Node
from rotor_actors.map_state import EndPages
from rotor_actors.messages import MarkMap, Pending
from rotor_actors.payload import Codec
from rotor_actors.records import Kind
from rotor_actors.run import Run
from rotor_actors.step_task import StepHost
from rotor_actors.workflows import Workflow


class ActorHost(StepHost, Protocol):
    """What an actor asks of the engine. Everything here is synchronous: it appends, posts and queues."""

    home_context: contextvars.Context
    noted_steps: dict[str, set[str]]
    """Steps whose place in the code is known, by workflow."""

    def note_place(self, run: Run, step_id: str, kind: Kind, target: str) -> None: ...

    def recorded_place(self, run: Run, step_id: str, kind: Kind, target: str) -> str: ...

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]: ...

    def seconds(self, value: Duration, name: str, maximum: float | None) -> float: ...

    def codec_of(self, annotation: object) -> Codec: ...

    def step_codec(self, fn: Callable[..., Any]) -> Codec: ...

    def condition(self, match: str | None, where: str | None) -> Node | None: ...

    def find_workflow(self, workflow_id: str) -> Workflow[Any, Any] | None: ...

    def known_workflow_ids(self) -> list[str]: ...

    def register(self, workflow: Workflow[Any, Any]) -> None: ...

    def chain(self, run: Run) -> list[str]: ...

    def max_depth(self) -> int | None: ...

    def invoke(self, run: Run, pending: Pending, generation: int) -> None:
        """Spawn the child, or attach to it where it runs already."""
        ...

    def withdraw(self, run: Run, key: bytes) -> None: ...

    def begin_step(self, run: Run, pending: Pending) -> float | None:
        """Begin a step that a feature performs, or go on with it; gives when it is due."""
        ...

    def step_due(self, run: Run, pending: Pending, at: float) -> None: ...

    def withdraw_step(self, run: Run, pending: Pending) -> None: ...

    def cancel_from_inside(self, run: Run, reason: str) -> None: ...

    def sleep_ended(self, run: Run, pending: Pending, at: float) -> None: ...

    def invoke_timed_out(self, run: Run, pending: Pending, at: float) -> None: ...

    def timer_fired(self, run: Run, number: int, at: float) -> None: ...

    def mark_diverged(self, run: Run, what: str) -> None: ...

    def mark_map(self, run: Run, mark: MarkMap) -> None: ...

    def record_patch(self, run: Run, key: bytes, name: str) -> None: ...

    async def transact(
        self, run: Run, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float,
        codec: Codec,
    ) -> Any: ...  # fmt: skip

    def report(self, run: Run, key: str, number: int, value: bytes) -> None: ...

    def fetch(self, run: Run, pages: EndPages) -> None:
        """Read the next page, and hand it to the run's actor."""
        ...

    def at_rest(self, run: Run, due: float | None, *, is_parked: bool) -> None: ...

    def attempt_ended(self, run: Run, task: asyncio.Task[Any], failed_keys: list[bytes],
                      sleeps: dict[bytes, float]) -> None: ...  # fmt: skip

    def cleaned_up(self, run: Run, task: asyncio.Task[Any]) -> None: ...
