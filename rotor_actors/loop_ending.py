"""Cutting off what is left on a run loop when the attempt that it belongs to is over."""

from __future__ import annotations

from collections.abc import Callable

from rotor_actors.run_loop import RunLoop

_ROUNDS = 100
# So many looks at the clock may the clean-up take in each round: what spins there is cut off.
_LOOKS = 1_000


def end_tasks(loop: RunLoop) -> None:
    """Cancel the tasks that are left until all have ended; those that refuse are dropped.

    More than once: what a cleanup awaits here will never come, and each round cuts one more such wait short.
    """
    tasks = loop.pending_tasks()
    if not tasks:
        return
    for task in tasks:
        task.look_away()
    is_over = _after_looks(_LOOKS)
    for _ in range(_ROUNDS):
        for task in tasks:
            task.cancel()
        loop.spin_on()
        has_rested = loop.run(is_over)
        tasks = loop.pending_tasks()
        if not tasks or not has_rested:
            break
    for task in tasks:
        task.drop()


def _after_looks(number: int) -> Callable[[], bool]:
    """A slice for clean-up after the end of an attempt."""
    looks = iter(range(number))
    return lambda: next(looks, None) is None
