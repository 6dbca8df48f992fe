"""Which options go together, and who wins: refused by name where the workflow is defined, with the fix."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing
from typing import Any

import msgspec

from rotor_actors.annotations import MISSING
from rotor_actors.errors import WorkflowDefinitionError
from rotor_actors.flow.options import (
    Batch,
    Debounce,
    FlowControl,
    Idempotency,
    Singleton,
    check_priority,
    is_path,
    path_of,
)

_LISTS = (list, tuple, collections.abc.Sequence)


class Rules(msgspec.Struct, frozen=True):
    """What one workflow asks for. A start is held against them in this order; see the guide's table.

    idempotency (a known key gives its run), batch or debounce (it becomes part of a run that waits), singleton (skipped,
    or the other is cancelled), then the queue: priority, arrival, flow control.
    """

    flow_control: FlowControl | None = None
    priority: int | str = 0
    debounce: Debounce | None = None
    singleton: Singleton | None = None
    idempotency: Idempotency | None = None
    batch: Batch | None = None

    @property
    def merges(self) -> bool:
        """Several starts become one run."""
        return self.debounce is not None or self.batch is not None


# Two options that cannot work together, and what to do.
_REFUSED: tuple[tuple[str, str, str], ...] = (
    ("batch", "debounce", "both make one run of many starts: batch keeps all their data, debounce the last; choose one"),
    ("batch", "singleton", "a batch would be thrown away as a whole; use flow_control=FlowControl(…, parallelism=1), "
                           "which has batches wait for each other"),
    ("batch", "idempotency", "a run of a batch has many inputs; leave out repeated ones in the workflow"),
    ("debounce", "singleton", "debounce makes one run of many starts by itself; for runs that do not overlap use "
                              "flow_control=FlowControl(…, parallelism=1)"),
)  # fmt: skip


def checked_rules(workflow_id: str, rules: Rules, *, data: Any, is_cron: bool) -> Rules:
    """The rules.

    Args:
        data: the annotation of the data parameter; None if there is none, MISSING if it is not known.

    Raises:
        WorkflowDefinitionError: they cannot work, and what would.
    """
    where = f"workflow {workflow_id!r}"
    _check_types(where, rules)
    check_priority(workflow_id, rules.priority)
    for one, other, why in _REFUSED:
        if getattr(rules, one) is not None and getattr(rules, other) is not None:
            raise WorkflowDefinitionError(f"{where}: {one} and {other} do not go together: {why}")
    if is_cron and rules.merges:
        name = "batch" if rules.batch is not None else "debounce"
        raise WorkflowDefinitionError(
            f"{where}: {name} does not go with on=cron(…): the clock's starts come at their times; leave {name} out"
        )
    if rules.batch is not None:
        data = _element(where, data)
        _check_batch_paths(where, rules, rules.batch)
    for name, path in _paths(rules):
        _check_path(f"{where}: {name} {path!r}", data, path_of(path))
    return rules


def _check_types(where: str, rules: Rules) -> None:
    expected = {"flow_control": FlowControl, "debounce": Debounce, "singleton": Singleton, "idempotency": Idempotency,
                "batch": Batch}  # fmt: skip
    for name, kind in expected.items():
        given = getattr(rules, name)
        if given is not None and not isinstance(given, kind):
            raise WorkflowDefinitionError(f"{where}: {name} takes a {kind.__name__}(…), got {given!r}")


def _check_batch_paths(where: str, rules: Rules, batch: Batch) -> None:
    """The elements of a batch agree on its key and on nothing else."""
    for name, path in _paths(rules):
        if name != "batch key" and path != batch.key:
            raise WorkflowDefinitionError(
                f"{where}: {name} {path!r} may differ within a batch; use the batch's own key ({batch.key!r}), or a "
                f"constant"
            )


def _paths(rules: Rules) -> list[tuple[str, str]]:
    """Each option that looks into the input, with its path."""
    named = [
        (f"{name} key", option.key)
        for name in ("flow_control", "debounce", "singleton", "idempotency", "batch")
        if (option := getattr(rules, name)) is not None
    ]
    named.append(("priority", rules.priority))
    return [(name, key) for name, key in named if isinstance(key, str) and is_path(key)]


def _element(where: str, data: Any) -> Any:
    """The annotation of one element of a batch's list."""
    if data is MISSING or data is Any:
        return MISSING
    origin = typing.get_origin(data) or data
    if origin not in _LISTS:
        raise WorkflowDefinitionError(
            f"{where}: batch gives the data of many starts, so its function takes a list: 'data: list[…]', not {data!r}"
        )
    arguments = typing.get_args(data)
    return arguments[0] if arguments else MISSING


def check_flow_control(workflow_id: str, flow_control: FlowControl, data: Any) -> None:
    """Raise WorkflowDefinitionError when the flow control of an invoke is none, or looks for what is not there."""
    if not isinstance(flow_control, FlowControl):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(f"flow_control takes a FlowControl(…), got {flow_control!r}")
    if is_path(flow_control.key):
        where = f"workflow {workflow_id!r}: flow_control key {flow_control.key!r}"
        _check_path(where, data, path_of(flow_control.key))


def _check_path(where: str, data: Any, path: tuple[str, ...]) -> None:
    if data is None:
        raise WorkflowDefinitionError(f"{where}: the workflow takes no data to look into; use a constant")
    kind = data
    for segment in path:
        fields = _fields(kind)
        if fields is None:
            return  # who knows
        if segment not in fields:
            raise WorkflowDefinitionError(
                f"{where}: {kind.__name__} has no field {segment!r}; it has {', '.join(fields) or 'none'}"
            )
        kind = fields[segment]


def _fields(kind: Any) -> dict[str, Any] | None:
    """The fields of a class by the names under which they are stored, with their annotations; None: not known."""
    try:
        names = _stored_names(kind) if isinstance(kind, type) else None
        hints = typing.get_type_hints(kind) if names is not None else {}
    except Exception:  # names that are not there yet: who knows
        return None
    return None if names is None else {stored: hints.get(name, MISSING) for stored, name in names.items()}


def _stored_names(kind: Any) -> dict[str, str] | None:
    """Of each field, the name under which it is stored, and its own."""
    if issubclass(kind, msgspec.Struct):
        if kind.__struct_config__.array_like:
            return None
        return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    if dataclasses.is_dataclass(kind):
        return {field.name: field.name for field in dataclasses.fields(kind)}
    if typing.is_typeddict(kind):
        return {name: name for name in kind.__annotations__}
    return None
