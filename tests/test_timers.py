"""One timer of the clock for all who sleep."""

from __future__ import annotations

import asyncio

import pytest

from rotor_actors import ManualClock
from rotor_actors.timers import Timers

pytestmark = pytest.mark.asyncio


class Sleeper:
    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks = breaks
        self.woken_at: list[float] = []

    def alarm(self, now: float) -> None:
        self.woken_at.append(now)
        if self.breaks:
            raise ValueError("a bad dream")


async def test_an_error_of_one_sleeper_does_not_leave_the_others_asleep() -> None:
    clock, told = ManualClock(), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context.get("exception"))))
    timers, broken, other = Timers(clock), Sleeper(breaks=True), Sleeper()
    begin = clock.now()
    timers.add(broken, begin + 1)
    timers.add(other, begin + 2)
    for _ in range(2):
        try:
            await clock.advance(3)
        except ValueError as error:  # a clock that is moved by hand rings in the call that moves it
            told.append(str(error))
    assert other.woken_at
    assert broken.woken_at
    assert told == ["a bad dream"]
