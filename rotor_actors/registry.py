"""The workflows that one runtime knows, and the codecs of their data and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rotor_actors.annotations import MISSING, annotations_of
from rotor_actors.errors import PayloadError, WorkflowDefinitionError
from rotor_actors.payload import Codec, Codecs
from rotor_actors.workflows import Workflow

# Functions made in a loop are new ones each time: a cache without a bound would keep them all.
_MOST_FUNCTIONS = 4096


class Registry:
    """Workflows by id.

    Args:
        codecs: of this runtime.
        on_new: told of each workflow that was not known before, so that runs waiting for it can go on.
    """

    def __init__(self, codecs: Codecs, on_new: Callable[[Workflow[Any, Any]], None]) -> None:
        self.codecs = codecs
        self._on_new = on_new
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._of_workflow: dict[str, tuple[Codec, Codec]] = {}
        self._of_function: dict[Callable[..., Any], Codec] = {}

    def register(self, workflow: Workflow[Any, Any]) -> None:
        """Make a workflow known, with its handlers. A second time changes nothing.

        Raises:
            WorkflowDefinitionError: another workflow has its id.
            PayloadError: values of its annotations cannot be stored.
        """
        known = self._workflows.get(workflow.id)
        if known is workflow:
            return
        if known is not None:
            raise WorkflowDefinitionError(
                f"two workflows have the id {workflow.id!r}: {_place(known)} and {_place(workflow)}; rename one"
            )
        self._of_workflow[workflow.id] = self._codecs_of(workflow)
        self._workflows[workflow.id] = workflow
        for handler in (workflow.on_failure, workflow.on_cancel):
            if handler is not None:
                self.register(handler)
        self._on_new(workflow)

    def get(self, workflow_id: str) -> Workflow[Any, Any] | None:
        return self._workflows.get(workflow_id)

    def all(self) -> list[Workflow[Any, Any]]:
        """All that are known, handlers too."""
        return list(self._workflows.values())

    def known_ids(self) -> list[str]:
        return sorted(self._workflows)

    def data_codec(self, workflow: Workflow[Any, Any]) -> Codec:
        return self._of_workflow[workflow.id][0]

    def result_codec(self, workflow: Workflow[Any, Any]) -> Codec:
        return self._of_workflow[workflow.id][1]

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        return self._of_workflow[workflow.id]

    def step_codec(self, fn: Callable[..., Any]) -> Codec:
        """The codec of what a step's function returns."""
        try:
            codec = self._of_function.get(fn)
        except TypeError:
            return self.codecs.of(annotations_of(fn).returns)
        if codec is None:
            if len(self._of_function) >= _MOST_FUNCTIONS:
                self._of_function.clear()
            codec = self._of_function[fn] = self.codecs.of(annotations_of(fn).returns)
        return codec

    def _codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        annotations = annotations_of(workflow.fn)
        try:
            data = self.codecs.of(annotations.data if workflow.handles is None else MISSING)
            return data, self.codecs.of(annotations.returns)
        except PayloadError as error:
            raise PayloadError(f"workflow {workflow.id!r}: {error}") from error


def _place(workflow: Workflow[Any, Any]) -> str:
    code = workflow.fn.__code__
    return f"{workflow.fn.__module__}.{workflow.fn.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
