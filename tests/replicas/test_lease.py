"""What a replica believes of its lease, on a loop whose time is jumped over."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, cast

from rotor_actors.errors import StoreError
from rotor_actors.replicas.lease import Heart, Lease
from rotor_actors.stores.shared import SharedStore

LEASE = 30.0


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait: the time is over."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class _Blocking:
    """A store whose beats are made in a thread: its first is later than this test lasts."""

    is_inline = False


def test_what_is_under_way_is_interrupted_when_the_lease_is_over_not_at_the_next_look() -> None:
    """Found by time stamps of steps that ran on for a sixth of the lease, when others owned their runs."""
    lost_at: list[float] = []

    async def live(renewed_at: float) -> None:
        loop = asyncio.get_running_loop()
        is_lost = asyncio.Event()

        def lost(error: StoreError) -> None:
            lost_at.append(loop.time() - renewed_at)
            is_lost.set()

        lease = Lease(LEASE, loop.time, lost)
        heart = asyncio.create_task(Heart(cast(SharedStore, _Blocking()), lease, _ignored).serve())
        loop.call_at(renewed_at + 0.01, lease.renewed, renewed_at)
        await is_lost.wait()
        heart.cancel()
        await asyncio.wait([heart])

    for tenth in range(0, 90, 7):
        loop = _JumpingLoop()
        loop.run_until_complete(live(tenth / 10))
        loop.close()
    assert len(lost_at) == 13
    assert all(LEASE * 0.9 - 0.1 < each < LEASE * 0.9 + 0.1 for each in lost_at), lost_at


def _ignored(now: float, sent_at: float, answered_at: float) -> None: ...
