"""What the tests of the simulator's loop share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rotor_actors import set_order
from rotor_actors.simulation.fence import fenced
from rotor_actors.simulation.inline_threads import inline_threads
from rotor_actors.simulation.loop import SimulationLoop
from rotor_actors.simulation.policies import policy_of
from rotor_actors.simulation.tape import Tapes

T = TypeVar("T")


def run(
    main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 1, policy: str = "sound", is_thorough: bool = False
) -> T:
    """Run it on a loop of its own, behind the fence."""
    set_order.install()
    tapes = Tapes(seed)
    loop = SimulationLoop(tapes, policy=policy_of(policy, tapes.tape("policy")))
    try:
        with inline_threads(), fenced("test", is_thorough=is_thorough) as arm:
            loop.before_step = arm
            return loop.run_until_complete(main())
    finally:
        loop.close()
