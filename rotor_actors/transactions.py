"""`step.transaction`: the user's rows and the memo of the step in one transaction of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

from rotor_actors.errors import StepRefusedError, StoreError, StoreFullError
from rotor_actors.journal import FULL_RETRY_SECONDS
from rotor_actors.kernel import Kernel
from rotor_actors.payload import Codec
from rotor_actors.run import Run
from rotor_actors.stores.transaction import Transaction, TransactionCall, WorkError


@runtime_checkable
class TransactionalStore(Protocol):
    """A store that can run user code within its own transaction."""

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        """Do the call's work and keep what it gives under run `n` and `key`, with all it wrote, or nothing of both.

        What is kept there already is given, and nothing is done.

        Raises:
            WorkError: the work raised; all it wrote is undone. StoreFullError: so is it, and it may be tried again.
            StoreError: it is not known whether it is durable.
        """
        ...


class Transactions:
    """Executes transactions beside the commits, in the thread that makes those."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def execute(
        self,
        run: Run,
        key: bytes,
        step_id: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        timeout: float,
        codec: Codec,
    ) -> Any:
        """Execute one, once and for all; gives its result, decoded."""
        store = self._kernel.ports.store
        where = f"{run.where}, step {step_id!r}"
        if not isinstance(store, TransactionalStore):
            raise StepRefusedError(
                f"{where}: {type(store).__name__} cannot run a transaction of yours together with its own; "
                f"SQLiteStore can, and MemoryStore for tests"
            )

        def work(transaction: Transaction) -> bytes:
            return codec.round_trip(fn(transaction, *args))[0]

        call = TransactionCall(where, step_id, timeout, work, self._kernel.ports.clock.monotonic)
        try:
            return codec.decode(await self._transact(cast(TransactionalStore, store), run.row.n, key, call))
        except asyncio.CancelledError:
            call.is_unwanted = True
            raise
        except WorkError as error:
            raise error.raised from None

    async def _transact(self, store: TransactionalStore, n: int, key: bytes, call: TransactionCall) -> bytes:
        kernel = self._kernel
        while True:
            if kernel.journal.failure is not None:
                raise kernel.journal.failure
            try:
                async with kernel.journal.commit_lock.reader_lock:
                    return await kernel.ports.writer.call(lambda: store.transact(n, key, call))
            except StoreFullError:
                await asyncio.sleep(FULL_RETRY_SECONDS)
            except StoreError as error:
                kernel.journal.fail(error)  # nobody knows what is durable: the runtime stops, and reopening re-reads
                raise
