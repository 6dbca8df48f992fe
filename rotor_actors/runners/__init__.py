"""Where heavy steps are executed: processes of this machine, Ray; each a `StepRunner` for `Runtime(step_runners=…)`.

`RayRunner` stands in `rotor_actors.runners.ray`: it needs the extra `ray`.
"""

from rotor_actors.runners.in_process import InProcessRunner
from rotor_actors.runners.process_pool import ProcessPoolRunner
from rotor_actors.step_runner import StepCall, StepRunner

__all__ = ["InProcessRunner", "ProcessPoolRunner", "StepCall", "StepRunner"]
