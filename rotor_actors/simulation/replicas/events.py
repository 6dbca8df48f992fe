"""What happens between replicas and their database. In these events `incarnation` is the number of the replica."""

from __future__ import annotations

from rotor_actors.simulation.trace import Event


class Registered(Event):
    """A process has opened the store: it is another replica from here on."""

    process: int

    def line(self) -> str:
        return f"process {self.process} is replica {self.incarnation}"


class LeaseRenewed(Event):
    """Its lease holds until then."""

    until: float


class Gone(Event):
    """The replica's row was taken away: it was closed, or its lease ran out and somebody noticed."""

    def line(self) -> str:
        return f"replica {self.incarnation} has no row any more"


class Owned(Event):
    """The replica owns these runs from here on. Some of them begin with that, by the database's clock: nothing else is
    recorded of it."""

    ns: list[int]
    begins: tuple[int, ...] = ()
    by_database: float = 0.0

    def line(self) -> str:
        return f"replica {self.incarnation} owns {', '.join(f'run {n}' for n in self.ns)}"


class Forgotten(Event):
    """The process does nothing as this replica any more: it has closed the store, or is another one."""

    def line(self) -> str:
        return f"replica {self.incarnation} is over in its process"


class Outage(Event):
    """Something goes wrong: what, and with which process (0: all)."""

    kind: str
    process: int
    seconds: float = 0.0

    def line(self) -> str:
        whose = f"process {self.process} (replica {self.incarnation})" if self.process else "everybody"
        return f"-- {whose}: {self.kind}{f' for {self.seconds:g} s' if self.seconds else ''}"


class MailStolen(Event):
    """A message was taken away by a replica that it was not for."""

    letter: int
    to: int


class TimerStolen(Event):
    """A parked run was given to a replica before its time, and nothing had come for it."""

    n: int
    early: float
