"""What may go wrong in a universe, and how often."""

from __future__ import annotations

import msgspec

# What the disk calls what was asked for.
_FIRED_AS: dict[str, tuple[str, ...]] = {
    "crash": ("crash",),
    "failed_fsync": ("failed_fsync",),
    "failed_write": ("failed_write", "short_write"),
    "disk_full": ("disk_full",),
    "bit_flip": ("bit_flip",),
    "lost_statement": ("lost_statement",),
    "lost_reply": ("lost_reply",),
    "late_statement": ("late_statement",),
    "slow_reply": ("slow_reply",),
    "pause": ("pause",),
    "blocked_loop": ("blocked_loop",),
    "partition": ("partition",),
    "database_restart": ("database_restart",),
    "bad_hint": ("lost_hint", "late_hint", "spurious_hint", "double_hint"),
    "skew": ("skew",),
}
_OF_REPLICAS = ("lost_statement", "lost_reply", "late_statement", "slow_reply", "pause", "blocked_loop", "partition",
                "database_restart", "bad_hint", "skew")  # fmt: skip
_OF_DISKS = ("failed_fsync", "failed_write", "disk_full", "bit_flip")


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities, from 0 (never) to 1. With one that is above 0, a test whose universes never see it fails.

    Attributes:
        crash: for each call of the store, that the process dies before, at or after it.
        power_cut: of the crashes that fall outside of a commit: the share that are power cuts, which lose what was not
            synced. The others are `kill -9`. A crash at a commit is always a power cut.
        failed_fsync, failed_write: for each commit, that the disk refuses in the middle of it.
        disk_full: for each commit, that there is no more room, for a while.
        bit_flip: for each opening of the store, that a bit of some payload is another one.
        most_crashes: after so many in one universe no more are drawn; of each kind of what follows, too.

    Of replicas, which share a database (`simulate(replicas=…)`), the process of one dies at a time, and there is no
    disk that could fail. For each statement:

    Attributes:
        lost_statement: the connection is lost before it is done.
        lost_reply: it is done, and the connection is lost then: who sent it does not know.
        late_statement: the connection is lost, and the statement is done some seconds after.
        slow_reply: it is done, and the answer takes seconds.
        pause: the process stands still for up to a minute and a half, as after SIGSTOP, and goes on.
        blocked_loop: its event loop does; what was sent to the database is done meanwhile.
        partition: the process cannot reach the database for a while; others can.
        database_restart: all connections are lost, and for a while nobody can reach it.
        bad_hint: for each hint, that it is lost, late, given twice, or comes for nothing.
        skew: for each replica, that its own clock is up to a day wrong.

    Example:
        >>> Faults(crash=0.05, disk_full=0.01).asked()
        ['crash', 'disk_full']
    """

    crash: float = 0.0
    power_cut: float = 0.5
    failed_fsync: float = 0.0
    failed_write: float = 0.0
    disk_full: float = 0.0
    bit_flip: float = 0.0
    most_crashes: int = 8
    lost_statement: float = 0.0
    lost_reply: float = 0.0
    late_statement: float = 0.0
    slow_reply: float = 0.0
    pause: float = 0.0
    blocked_loop: float = 0.0
    partition: float = 0.0
    database_restart: float = 0.0
    bad_hint: float = 0.0
    skew: float = 0.0

    def __post_init__(self) -> None:
        for name in ("power_cut", *_FIRED_AS):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Faults({name}={value!r}): a probability is a number from 0 to 1")

    def asked(self) -> list[str]:
        """The kinds of faults that must happen somewhere."""
        return [kind for kind in _FIRED_AS if getattr(self, kind) > 0]

    def misplaced(self, *, has_replicas: bool) -> list[str]:
        """The kinds that were asked for and cannot happen there."""
        return [kind for kind in (_OF_DISKS if has_replicas else _OF_REPLICAS) if getattr(self, kind) > 0]

    @staticmethod
    def is_fired(kind: str, fired: dict[str, int]) -> bool:
        return any(fired.get(name) for name in _FIRED_AS[kind])
