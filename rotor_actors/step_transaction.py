"""`step.transaction`: exactly once, in the store's own transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from rotor_actors.body import NIL, checked_step_id
from rotor_actors.durations import Duration
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_events import EventSteps
from rotor_actors.step_specs import RunSpec
from rotor_actors.stores.transaction import Transaction

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONGEST_TRANSACTION = 60.0
_WAITING_FOR_THE_WRITER = 24 * 3600.0


class TransactionSteps(EventSteps):
    """The steps that write to the user's own tables beside the journal."""

    __slots__ = ()

    async def transaction(
        self,
        id: str,
        fn: Callable[[Transaction, *Ts], T],
        *args: *Ts,
        timeout: Duration = "5s",
        retries: int | RetryPolicy | None = None,
    ) -> T:
        """Write to your own tables in the store's file, exactly once.

            def book(tx: Transaction, account: str, amount: int) -> int:
                tx.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, account))
                return tx.execute("SELECT balance FROM accounts WHERE name = ?", (account,))[0][0]

            balance = await ctx.step.transaction("book", book, "alice", 100)

        What `fn` writes and what the step records of it are one SQLite transaction: a crash keeps both or neither, and
        `fn` is not executed again once they are kept. It runs in the thread that makes the commits, and no other commit
        is made meanwhile: keep it short, and do the slow part in a `step.run` before it.

        Args:
            id: the step's name within this run.
            fn: a sync function of a `Transaction` and `args`; see there for what it may do. Its return annotation says
                how the result is stored.
            timeout: of one execution, at most 60 s. It is looked at with each statement, not between them.
            retries: how often it is tried again before it raises here, as with `run`.

        Raises:
            Exception: what `fn` raised; all that it wrote is undone, and the failure is recorded.
            StepTimeoutError: it took too long, and was undone. StepRefusedError: it did what it may not, or the store
                cannot do this. PayloadError: its result cannot be stored, and all that it wrote is undone.
            TypeError: `fn` is async. NonDeterminismError: as with `run`.

        When the run is cancelled, or the scope that waits here, what is not committed yet is undone. What was committed
        stays, and answers should a later attempt come here again.
        """
        if inspect.iscoroutinefunction(fn) or not callable(fn):
            raise TypeError(
                f"{self._body.where}: step.transaction({id!r}, …) takes a sync function of the transaction; got {fn!r}. "
                f"It runs in the store's own thread, where nothing can be awaited"
            )
        body = self._body
        limit, codec = body.seconds(timeout, "timeout", LONGEST_TRANSACTION), body.step_codec(fn)
        key = b""

        async def execute() -> Any:
            return await body.transact(key, id, fn, args, limit, codec)

        policy = None if retries is None else RetryPolicy.of(retries)
        spec = RunSpec(execute, (), _WAITING_FOR_THE_WRITER, policy, codec)
        asked = body.ask(checked_step_id(id), Kind.TRANSACTION, "", spec)
        if isinstance(asked, Pending):
            key = asked.key  # before it begins: that comes after this turn of the body
            ended: StepEnded = await asked.future
        else:
            ended = asked
        if ended.outcome.status is OutcomeStatus.COMPLETED:
            result: T = codec.decode(ended.outcome.payload or NIL)
            return result
        error = rebuild(msgspec.msgpack.decode(ended.outcome.payload or b"", type=RecordedError))
        body.note_failure(error, ended.key)
        raise error
