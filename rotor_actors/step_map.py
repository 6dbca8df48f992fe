"""`step.map` and what stands on it: a child for each item, as many at a time as is said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Literal, TypeVar

from rotor_actors.body import Body, checked_step_id
from rotor_actors.child_ends import InvokeOutcome, as_outcome, invoke_error
from rotor_actors.durations import Duration
from rotor_actors.errors import QuorumError
from rotor_actors.fan_out import FanOut
from rotor_actors.flow.options import FlowControl
from rotor_actors.ids import map_index_of
from rotor_actors.invoke_request import LONGEST_INVOKE, checked_placement, checked_workflow, invoke_spec
from rotor_actors.payload import Codec
from rotor_actors.records import OutcomeStatus
from rotor_actors.replicas.room import Placement
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_invoke import InvokeSteps
from rotor_actors.step_specs import InvokeSpec
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")


class MapSteps(InvokeSteps):
    """The steps that run many children."""

    __slots__ = ()

    def map(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In] | AsyncIterable[In],
        timeout: Duration,
        concurrency: int = 100,
        on_error: Literal["raise", "collect"] = "raise",
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        flow_control: FlowControl | None = None,
        placement: Placement | None = None,
    ) -> AsyncGenerator[InvokeOutcome[Out], None]:
        """Run a child for each item, a bounded number at a time, and give their ends in the order of completion.

            async for outcome in ctx.step.map("pages", workflow=fetch, items=urls, timeout="5m"):
                print(outcome.index, outcome.body)

        Items are pulled only while there is room, so there may be any number of them, and memory does not grow with
        it; neither live nor after a crash. They are made anew in each attempt: like the rest of a body they must be
        the same again. On replay and in later attempts the ends come in the order in which they came first.

        Args:
            id: the step's name within this run; the child of item 7 is called `id[7]`.
            workflow: the target. items: the input of each child, from an iterable or an async one, which may use steps.
            timeout: of each child, counted from its start, at most 24 h. When it passes that child runs on.
            concurrency: how many children at a time, ends that you have not taken yet included.
            on_error: `"raise"`: the first child that does not complete is raised, and the others are withdrawn;
                `"collect"`: each end is given as an outcome, and nothing is raised for it.
            headers, retries, retry_delay, flow_control, placement: for each child, as with `invoke`.

        Raises (while iterating):
            WorkflowFailedError, WorkflowCancelledError, WorkflowTimeoutError: with `on_error="raise"`.
            PayloadError: an item does not fit the target's data. Exception: what making the items raised.
            InvokeTargetError, InvokeDepthError: nothing was spawned.

        Leaving the iteration early, by `break`, an exception or a cancellation, withdraws the children that still run:
        they are cancelled, with all below them. Who keeps the iterator beyond a `break` keeps them running; close it
        with `contextlib.aclosing`.
        """
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"step {id!r}: concurrency must be a number of at least 1, e.g. 100; got {concurrency!r}")
        if on_error not in ("raise", "collect"):
            raise ValueError(f"step {id!r}: on_error must be 'raise' or 'collect', got {on_error!r}")
        checked_placement(placement)
        if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"step {id!r}: items must be an iterable or async iterable of inputs; got {items!r}")
        codecs = self._body.check_invoke(id, checked_workflow(self._body, id, workflow))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)

        def spec_of(item: Any) -> InvokeSpec:
            return invoke_spec(workflow, codecs[0], item, limit, headers, retries, retry_delay, flow_control, None,
                                "cancel", placement=placement)  # fmt: skip

        raising = self._with_child if on_error == "raise" else None
        return _ends(self._body, checked_step_id(id), workflow, items, concurrency, raising, spec_of, codecs[1])

    async def quorum(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In],
        needed: int,
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
    ) -> list[InvokeOutcome[Out]]:
        """Run a child for each item, all at once, and give the first `needed` that complete; the others are withdrawn.

        Raises:
            QuorumError: so many have not completed that `needed` cannot be reached; it holds their outcomes.
            ValueError: `needed` is not between 1 and the number of items.

        For the rest see `map`.
        """
        inputs = list(items)
        if isinstance(needed, bool) or not 1 <= needed <= len(inputs):
            raise ValueError(f"step {id!r}: needed must be between 1 and the {len(inputs)} items; got {needed!r}")
        won: list[InvokeOutcome[Out]] = []
        lost: list[InvokeOutcome[Out]] = []
        ends = self.map(
            id, workflow=workflow, items=inputs, timeout=timeout, concurrency=len(inputs), on_error="collect",
            headers=headers, retries=retries, retry_delay=retry_delay,
        )  # fmt: skip
        async with aclosing(ends):
            async for outcome in ends:
                (won if outcome.is_completed else lost).append(outcome)
                if len(won) == needed or len(lost) > len(inputs) - needed:
                    break
        if len(won) < needed:
            raise QuorumError(_no_quorum(self._body, id, needed, len(inputs), lost), outcomes=tuple(lost))
        return won

    async def first(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In],
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
    ) -> InvokeOutcome[Out]:
        """Run a child for each item, all at once, and give the first that completes; the others are withdrawn.

        Raises:
            QuorumError: none has completed; it holds their outcomes.

        For the rest see `map`.
        """
        won = await self.quorum(
            id, workflow=workflow, items=items, needed=1, timeout=timeout, headers=headers, retries=retries,
            retry_delay=retry_delay,
        )  # fmt: skip
        return won[0]


async def _ends(
    body: Body,
    id: str,
    workflow: Workflow[Any, Any],
    items: Iterable[Any] | AsyncIterable[Any],
    window: int,
    raising: Callable[[BaseException], BaseException] | None,
    spec_of: Callable[[Any], InvokeSpec],
    codec: Codec,
) -> AsyncGenerator[InvokeOutcome[Any], None]:
    fan_out = FanOut(body, body.open_map(id, workflow.id), items, window, spec_of)
    try:
        while (ended := await fan_out.next_end()) is not None:
            index = map_index_of(ended.key)
            if raising is not None and ended.outcome.status is not OutcomeStatus.COMPLETED:
                error = raising(invoke_error(ended))
                error.add_note(f"item {index} of step {id!r}")
                body.note_invoke_failure(error, ended.key)
                raise error
            yield as_outcome(ended, codec, index)
    finally:
        fan_out.close()


def _no_quorum(body: Body, id: str, needed: int, of: int, lost: list[InvokeOutcome[Any]]) -> str:
    first = lost[0]
    how = "timed out" if first.is_timed_out else "was cancelled" if first.is_canceled else f"failed: {first.error}"
    return (
        f"{body.where}: step {id!r} needed {needed} of {of} runs to complete, and {len(lost)} did not; "
        f"the first of them, {first.run_id}, {how}"
    )
