"""What a running attempt offers to those who write its steps down: `Step`, `Context`, and the features' steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from rotor_actors.durations import Duration
from rotor_actors.events.expression import Node
from rotor_actors.fan_out import Mapper
from rotor_actors.ids import is_storable
from rotor_actors.map_state import MapState
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import Kind
from rotor_actors.workflows import Event, Workflow

NIL = b"\xc0"
"""None, encoded."""


class Body(Mapper, Protocol):
    """What a running attempt offers to `Step` and `Context`."""

    @property
    def where(self) -> str: ...

    @property
    def run_id(self) -> str: ...

    @property
    def own_workflow(self) -> Workflow[Any, Any]: ...

    def ask(self, step_id: str, kind: Kind, target: str, spec: object) -> StepEnded | Pending:
        """Ask for a step: its outcome where it is known, else one to come, with the future to wait for it."""
        ...

    def patched(self, name: str) -> bool:
        """See `Context.patched`."""
        ...

    async def transact(
        self, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float, codec: Codec
    ) -> Any:
        """Execute a function within the store's own transaction."""
        ...

    def report(self, key: str, value: object) -> None:
        """See `Context.report`."""
        ...

    def open_map(self, step_id: str, target: str) -> MapState:
        """Begin a map over the workflow `target`."""
        ...

    def note_failure(self, error: BaseException, key: bytes) -> None:
        """The body is about to see this failure of a step: if it ends the attempt, the step runs again."""
        ...

    def note_invoke_failure(self, error: BaseException, key: bytes) -> None:
        """The body is about to see that a child did not complete: if it ends the run, `resume` takes that back."""
        ...

    def now(self) -> float: ...

    def is_replaying(self) -> bool: ...

    def event(self) -> Event:
        """What started the run."""
        ...

    def seconds(self, value: Duration, name: str, maximum: float | None = None) -> float:
        """`durations.seconds` above zero, with a memory: a timeout is mostly one of a few texts."""
        ...

    def codec_of(self, annotation: object) -> Codec: ...

    def step_codec(self, fn: Callable[..., Any]) -> Codec: ...

    def condition(self, match: str | None, where: str | None) -> Node | None:
        """What they ask of an event, parsed once for all runs. Raises ExpressionError."""
        ...

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        """Register a workflow, and give the codecs of its data and its result."""
        ...

    def result_codec(self, workflow_id: str) -> Codec:
        """The codec of a workflow's result; where it is not registered, one for plain data."""
        ...

    def workflow(self, workflow_id: str) -> Workflow[Any, Any]: ...

    def check_invoke(self, step_id: str, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        """Register the target, check the depth, and give the codecs of its data and its result."""
        ...

    async def cancel(self, reason: str) -> NoReturn: ...


def checked_step_id(id: str) -> str:
    """Raise TypeError where it cannot be a step's id."""
    if type(id) is str and id and id.isascii():
        return id  # which says that it is storable without encoding it
    if not isinstance(id, str) or not id or not is_storable(id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a step's id must be a non-empty string, e.g. 'fetch-page'; got {id!r}")
    return id
