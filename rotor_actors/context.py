"""What a workflow's function is given: who it is, its steps, and time and chance that are the same on replay."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from rotor_actors.body import Body, checked_step_id
from rotor_actors.child_ends import InvokeOutcome
from rotor_actors.durations import Duration
from rotor_actors.errors import PayloadError
from rotor_actors.flow.options import LONGEST_KEY, FlowControl
from rotor_actors.ids import is_storable
from rotor_actors.retry import RetryPolicy
from rotor_actors.step import Step, charge
from rotor_actors.step_invoke import invoke_outcome
from rotor_actors.workflows import Event, Workflow

In = TypeVar("In")
Out = TypeVar("Out")


class Context:
    """One attempt of one run, as its workflow sees it.

    Attributes:
        run_id, workflow_id: this run.
        attempt: counts from 1.
        parent_run_id: who invoked it, or None. root_run_id: the top of its tree. depth: 0 for the top.
        event: what started it. headers: what its starter passed along.
        step: what it can have done.
        logger: carries the run's fields; silent on replay.
    """

    def __init__(
        self,
        body: Body,
        *,
        run_id: str,
        workflow_id: str,
        attempt: int,
        parent_run_id: str | None,
        root_run_id: str,
        depth: int,
        headers: Mapping[str, str],
    ) -> None:
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.attempt = attempt
        self.parent_run_id = parent_run_id
        self.root_run_id = root_run_id
        self.depth = depth
        self.headers = headers
        self.step = Step(body)
        self._body = body
        self._random: random.Random | None = None
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None

    @property
    def event(self) -> Event:
        """What started the run: its name, its data, and when."""
        return self._body.event()

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """The logger `rotor_actors.workflow`, with the run's fields as `extra`; silent on replay."""
        if self._logger is None:
            fields = {
                "run_id": self.run_id,
                "root_run_id": self.root_run_id,
                "workflow_id": self.workflow_id,
                "attempt": self.attempt,
            }
            logger = logging.getLogger("rotor_actors.workflow")
            self._logger = _SilentOnReplay(logger, fields, self._body.is_replaying)
        return self._logger

    def now(self) -> datetime:
        """The time of what the run is answering to, in UTC: the same on replay."""
        return datetime.fromtimestamp(self._body.now(), UTC)

    @property
    def random(self) -> random.Random:
        """Chance that is the same in each attempt and on each replay of this run."""
        if self._random is None:
            self._random = random.Random(self.run_id)
        return self._random

    def uuid(self) -> UUID:
        """A random UUID, the same on replay."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, name: str) -> bool:
        """Is this run to go the new way of a changed piece of code?

            if ctx.patched("send-invoice-too"):
                await ctx.step.run("invoice", send_invoice)

        True for a run that began after the change, or comes to it live: that is recorded, and true ever after. False
        for a run in whose record something comes after this point: it went the old way, and goes it again. So runs
        under way keep their branches over a deploy, and the old code can be dropped when the last of them has ended
        (`python -m rotor_actors.check` names those that would break).

        Args:
            name: of the change; one name for one change, in as many places of the body as it has.

        Raises:
            TypeError: not a text. StepRefusedError: called outside of the body, or while it only cleans up.

        A step that was in flight when the process ended, and has no outcome, does not count as recorded.
        """
        return self._body.patched(checked_step_id(name))

    def report(self, value: object, *, key: str = "") -> None:
        """Publish how far the run has come; whoever follows it (`handle.updates()`) is told.

            ctx.report({"done": n, "of": total})

        The newest value of each key is kept, also over restarts and beyond the run's end; each replaces the one
        before. It is seen once it is durable, goes with the commits that come anyway, and keeps no step waiting. A
        replay does not report again what was recorded; a new attempt reports anew, and says that it is one.

        Args:
            value: what can be stored, and is shown as plain data. key: a name, where there are several such values.

        Raises:
            PayloadError: the value cannot be stored, or the key has more than 200 characters. TypeError: it is no text.
            StepRefusedError: called outside of the body: a step reports by what it returns.
        """
        if not isinstance(key, str) or not is_storable(key):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"ctx.report: key must be a text, e.g. 'pages'; got {key!r}")
        if len(key) > LONGEST_KEY:  # PostgreSQL has it in an index: with a longer one no commit would ever succeed
            raise PayloadError(
                f"ctx.report: key has at most {LONGEST_KEY} characters, e.g. 'pages'; got {len(key)}: {key[:60]!r}…; put "
                f"what is long into the value"
            )
        self._body.report(key, value)

    async def cancel(self, reason: str = "") -> NoReturn:
        """Cancel this run from inside: it ends cancelled, not failed, with all that runs below it."""
        await self._body.cancel(reason)

    async def charge(self, unit: str, amount: float, *, id: str | None = None) -> float | None:
        """Charge the budgets that this run lives by with units spent, once, whatever crashes. It is a step.

        Args:
            unit: of which, e.g. `"tokens"`. amount: how many, from 0 on.
            id: the step's name; the unit's own unless given.

        Returns:
            How much is left by the tightest of the budgets; None where none limits this unit.

        Raises:
            BudgetExceededError: that was too much. It is spent all the same, and counted.
        """
        return await charge(self._body, unit, amount, f"charge {unit}" if id is None else id)

    async def invoke(
        self,
        name: str,
        *,
        workflow: Workflow[In, Out],
        body: In = None,  # type: ignore[assignment]
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy = 3,
        retry_delay: Duration | None = None,
        flow_control: FlowControl | None = None,
        workflow_run_id: str | None = None,
        timeout: Duration = "24h",
    ) -> InvokeOutcome[Out]:
        """Run a child workflow and get its end as a value; nothing is raised for it.

        Args:
            name: the step's name within this run.
            workflow: the target. body: its input. headers: for its `ctx.headers`.
            retries: of the child. retry_delay: constant, in place of backoff.
            flow_control: in place of the target's own.
            workflow_run_id: a run id of your choice.
            timeout: how long to wait; then `is_timed_out`, and the child runs on.

        Raises:
            InvokeTargetError, InvokeDepthError, RunExistsError: nothing was spawned.

        Cancellation is as with `step.invoke`.
        """
        return await invoke_outcome(
            self._body,
            name,
            workflow=workflow,
            data=body,
            timeout=timeout,
            headers=headers,
            retries=retries,
            retry_delay=retry_delay,
            flow_control=flow_control,
            run_id=workflow_run_id,
        )


class _SilentOnReplay(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, logger: logging.Logger, fields: dict[str, Any], is_replaying: Callable[[], bool]) -> None:
        super().__init__(logger, fields)
        self._is_replaying = is_replaying

    def isEnabledFor(self, level: int) -> bool:
        return not self._is_replaying() and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
