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
}


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities, from 0 (never) to 1. With one that is above 0, a test whose universes never see it fails.

    Attributes:
        crash: for each call of the store, that the process dies before, at or after it.
        power_cut: of the crashes that fall outside of a commit: the share that are power cuts, which lose what was not
            synced. The others are `kill -9`. A crash at a commit is always a power cut.
        failed_fsync, failed_write: for each commit, that the disk refuses in the middle of it.
        disk_full: for each commit, that there is no more room, for a while.
        bit_flip: for each opening of the store, that a bit of some payload is another one.
        most_crashes: after so many in one universe no more are drawn.

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

    def __post_init__(self) -> None:
        for name in ("crash", "power_cut", "failed_fsync", "failed_write", "disk_full", "bit_flip"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Faults({name}={value!r}): a probability is a number from 0 to 1")

    def asked(self) -> list[str]:
        """The kinds of faults that must happen somewhere."""
        return [kind for kind in _FIRED_AS if getattr(self, kind) > 0]

    @staticmethod
    def is_fired(kind: str, fired: dict[str, int]) -> bool:
        return any(fired.get(name) for name in _FIRED_AS[kind])
