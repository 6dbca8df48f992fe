"""The steps whose bodies are being executed, or are about to be."""

from __future__ import annotations

from rotor_actors.run import Run
from rotor_actors.step_task import StepTask


class StepsInFlight:
    """Counts them, and knows of each run those that were interrupted and may still clean up."""

    def __init__(self) -> None:
        self.count = 0
        """Those that wait for their past to be durable, too."""
        self._executing: set[StepTask] = set()
        self._leaving: dict[int, set[StepTask]] = {}

    @property
    def are_executing(self) -> bool:
        """The body of some step is being executed."""
        return bool(self._executing)

    def started(self, step: StepTask) -> None:
        """What was counted before has begun, or will not begin."""
        if step.task is None:
            self.count -= 1
        else:
            self._executing.add(step)

    def leaves(self, step: StepTask) -> None:
        """Its body has been interrupted, and may clean up: cancelling its run waits for that."""
        self._leaving.setdefault(step.run.row.n, set()).add(step)

    def leaving(self, run: Run) -> set[StepTask]:
        return self._leaving.get(run.row.n, set())

    def gone(self, step: StepTask) -> None:
        """Its execution has ended, or was given up."""
        if step not in self._executing:
            return  # it was given up before
        self.count -= 1
        self._executing.discard(step)
        leaving = self._leaving.get(step.run.row.n)
        if leaving is not None:
            leaving.discard(step)
            if not leaving:
                del self._leaving[step.run.row.n]
