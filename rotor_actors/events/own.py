"""The event that started a run, as `match` and `where` see it."""

from __future__ import annotations

from typing import Any

import msgspec

from rotor_actors.errors import ExpressionError
from rotor_actors.events.expression import Node, bind, look_up, own_paths
from rotor_actors.payload import Codec
from rotor_actors.records import EventNote
from rotor_actors.run import Run


def own_event(run: Run, codec: Codec) -> dict[str, Any]:
    """Name, id and data of `ctx.event`, as plain data."""
    row = run.row
    data = None if row.input is None else codec.decode(row.input)
    if row.event is not None:
        note = msgspec.msgpack.decode(row.event, type=EventNote)
        return {"name": note.name, "id": note.id, "data": data}
    workflow = run.workflow
    name = workflow.on if workflow is not None and isinstance(workflow.on, str) else row.workflow_id
    return {"name": name, "id": row.run_id, "data": data}


def own_values(node: Node | None, run: Run, codec: Codec, match: str | None) -> list[Any]:
    """The values of the run's own event that the expression asks for, in the order of `own_paths`.

    Raises:
        ExpressionError: `match` names a place at which the own event has nothing: it could never match.
    """
    paths = [] if node is None else own_paths(node)
    if not paths:
        return []
    event = own_event(run, codec)
    values = [look_up(event, path.keys) for path in paths]
    if match is not None and values[0] is None:
        raise ExpressionError(
            f"{run.where}: match={match!r}: the event that started this run has nothing at that place, so no event "
            f"could ever match; its data is {_shown(event['data'])}",
            expression=match,
        )
    return values


def bound(node: Node | None, values: list[Any]) -> Node | None:
    """The expression with the own event's values in it."""
    return node if node is None or not values else bind(node, iter(values))


def _shown(data: Any) -> str:
    if isinstance(data, dict):
        keys = ", ".join(sorted(map(repr, data))[:20])  # pyright: ignore[reportUnknownArgumentType]
        return f"an object with the keys {keys}" if keys else "an empty object"
    return f"of type {type(data).__name__}"
