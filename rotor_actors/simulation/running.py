"""Running one universe from its beginning to its end, in this thread, whatever else runs there."""

from __future__ import annotations

import gc
import logging
from asyncio import events
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import msgspec

from rotor_actors import set_order
from rotor_actors.errors import StoreError
from rotor_actors.simulation.crashes import CrashPoint
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.fence import fenced
from rotor_actors.simulation.inline_threads import inline_threads
from rotor_actors.simulation.loop import LIFE
from rotor_actors.simulation.trace import TraceEvent
from rotor_actors.simulation.universe import Settings, Universe

_logger = logging.getLogger("rotor_actors")


class Outcome(msgspec.Struct):
    """How a universe went.

    Attributes:
        failure: what was raised in it, or which invariant broke; None when all is well.
        choices: all its choices, to run it again.
        fired: faults by kind.
        commits, crashes, steps: counts; steps are callbacks of its loop.
        seconds: virtual ones.
        trace: what happened; trace_hash and disk_hash are the same for the same universe.
        busy: callbacks that took long, in real seconds.
    """

    seed: int
    point: CrashPoint | None
    failure: BaseException | None = None
    choices: dict[str, list[int]] = {}
    fired: Counter[str] = msgspec.field(default_factory=lambda: Counter[str]())
    commits: int = 0
    crashes: int = 0
    steps: int = 0
    seconds: float = 0.0
    trace: list[TraceEvent] = []
    trace_hash: str = ""
    disk_hash: str = ""
    busy: list[tuple[str, float]] = []


def run_universe(
    main: Callable[[Universe], Awaitable[None]],
    *,
    seed: int,
    settings: Settings,
    point: CrashPoint | None = None,
    replay: dict[str, list[int]] | None = None,
    is_thorough: bool = False,
    with_hashes: bool = False,
) -> Outcome:
    """Run `main` in a universe of its own.

    Args:
        main: what happens in it.
        seed, settings, point, replay: see `Universe`.
        is_thorough: look for every use of the real world, which takes its time.
        with_hashes: compute the hashes of trace and disk.

    It may be called inside a running event loop, which stands still meanwhile.
    """
    set_order.install()
    universe = universe_of(seed, settings, point=point, replay=replay)
    outcome = Outcome(seed, point)
    running = events._get_running_loop()
    events._set_running_loop(None)
    try:
        with (
            _steady(universe),
            inline_threads(),
            fenced(f"{seed}:process", settings.allow, is_thorough=is_thorough) as arm,
        ):
            universe.loop.before_step = arm
            try:
                universe.loop.run_until_complete(universe.live(main))
                _check_unhandled(universe)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                outcome.failure = error
            _take_down(universe, outcome, with_hashes=with_hashes)
            universe.close()
    finally:
        events._set_running_loop(running)
    return outcome


def universe_of(
    seed: int, settings: Settings, *, point: CrashPoint | None = None, replay: dict[str, list[int]] | None = None
) -> Universe:
    """One process on a disk of its own, or several that share a database."""
    if not settings.replicas:
        return Universe(seed, settings, point=point, replay=replay)
    from rotor_actors.simulation.replicas.universe import ReplicaUniverse  # here: who has one process needs none of it

    return ReplicaUniverse(seed, settings, point=point, replay=replay)


def _check_unhandled(universe: Universe) -> None:
    for context in universe.loop.unhandled:
        error = context.get("exception")
        failure = InvariantError("no unhandled exception", f"{context.get('message')}: {error!r}")
        raise failure from error if isinstance(error, BaseException) else None


def _take_down(universe: Universe, outcome: Outcome, *, with_hashes: bool) -> None:
    outcome.choices = universe.tapes.recorded()
    outcome.fired = universe.fired
    outcome.commits, outcome.crashes = universe.commits, universe.crashes
    outcome.steps, outcome.seconds = universe.loop.steps, universe.now()
    outcome.trace, outcome.busy = universe.trace, universe.loop.busy
    if with_hashes:
        outcome.trace_hash = universe.trace_hash()
        if outcome.failure is None:
            outcome.disk_hash = universe.disk.digest()


class _Criticals(logging.Handler):
    """What the engine caught of its own errors, and went on: that fails a universe as if nobody had caught it. What it
    says of a store that fails, or when it is dead already, is no news."""

    def __init__(self, universe: Universe) -> None:
        super().__init__(logging.CRITICAL)
        self._universe = universe

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        life = LIFE.get()
        if error is None or isinstance(error, StoreError) or (life is not None and life.is_dead):
            return
        self._universe.loop.unhandled.append({"message": record.getMessage(), "exception": error})


@contextmanager
def _steady(universe: Universe) -> Generator[None, None, None]:
    """Without the cyclic collector, which would close generators at moments that no seed decides, and without log
    lines: what the engine has to say about a crash is no news here."""
    was_enabled, level, propagates = gc.isenabled(), _logger.level, _logger.propagate
    criticals = _Criticals(universe)
    gc.disable()
    _logger.setLevel(logging.CRITICAL)
    _logger.propagate = False
    _logger.addHandler(criticals)
    try:
        yield
    finally:
        _logger.removeHandler(criticals)
        _logger.propagate = propagates
        _logger.setLevel(level)
        if was_enabled:
            gc.enable()
