"""What a run that flow control has to do with carries: found out once, when it is created, and kept with it."""

from __future__ import annotations

import msgspec

from rotor_actors.flow.line import Limits
from rotor_actors.flow.options import FlowControl
from rotor_actors.flow.paths import Input, flow_name, own_name, priority_of
from rotor_actors.flow.rules import Rules

SPACE = "flow.run"


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """Durable, as an item that the run owns.

    Attributes:
        name: of the key; None: of none.
        limits: what the key allowed when the run was created.
        priority: the higher goes first.
        singleton: the name under which at most one run may be there; `replaces`: it is the newest.
        is_own: the limits are the workflow's, and follow its definition; else they were given with the invoke.
        arrival: in place of the run's number, for one that waited to become what it is.
        is_complete: its data is all there.
        follows: the number of the run that it replaces, and waits for.
    """

    name: str | None = None
    limits: Limits = Limits()
    priority: int = 0
    singleton: str | None = None
    replaces: bool = False
    is_own: bool = True
    arrival: int = 0
    is_complete: bool = True
    follows: int = 0

    def encoded(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decoded(cls, blob: bytes) -> Ticket:
        return msgspec.msgpack.decode(blob, type=cls)


def make_ticket(
    workflow_id: str, rules: Rules, given: FlowControl | None, blob: bytes | None, *, is_lenient: bool = False
) -> Ticket:
    """The ticket of a run of that input. `given` with the invoke takes the place of the workflow's own.

    Args:
        is_lenient: a priority that is no number is 0.

    Raises:
        PayloadError: the priority's path leads to something that is no number.
    """
    data = Input(blob)
    if rules.batch is not None:
        data = data.first()
    flow_control = rules.flow_control if given is None else given
    singleton = rules.singleton
    return Ticket(
        name=None if flow_control is None else flow_name(workflow_id, flow_control.key, data),
        limits=limits_of(flow_control),
        priority=priority_of(f"a run of workflow {workflow_id!r}", rules.priority, data, is_lenient=is_lenient),
        singleton=None if singleton is None else own_name(workflow_id, singleton.key, data),
        replaces=singleton is not None and singleton.mode == "cancel",
        is_own=given is None,
    )


def limits_of(flow_control: FlowControl | None) -> Limits:
    """Of no flow control: none."""
    if flow_control is None:
        return Limits()
    return Limits(flow_control.parallelism, flow_control.rate, flow_control.period_seconds)
