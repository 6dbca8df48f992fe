"""A workload for tests that kill it: books amounts in a table of its own, exactly once each.

    python booking.py STORE [before|within|after|commit]

With a place it kills itself with SIGKILL there, at its second transaction, and otherwise prints the balance and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from rotor_actors import Context, Runtime, SQLiteStore, Transaction, workflow
from rotor_actors.records import Entry
from rotor_actors.stores.transaction import TransactionCall

place = ""
transactions = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def book(tx: Transaction, amount: int) -> int:
    tx.execute("CREATE TABLE IF NOT EXISTS bookings(amount INTEGER)")
    tx.execute("INSERT INTO bookings VALUES (?)", (amount,))
    if place == "within" and transactions == 2:
        die()
    balance: int = tx.execute("SELECT sum(amount) FROM bookings")[0][0]
    return balance


@workflow(id="booking", retries=0)
async def booking(ctx: Context) -> int:
    balance = 0
    for n in range(4):
        balance = await ctx.step.transaction(f"book {n}", book, 10**n)
    return balance


class DeadlyStore(SQLiteStore):
    """Kills the process around its second transaction."""

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        global transactions
        transactions += 1
        if place == "before" and transactions == 2:
            die()
        payload = super().transact(n, key, call)
        if place == "after" and transactions == 2:
            die()
        return payload

    def commit(self, entries: list[Entry]) -> None:
        if place == "commit" and transactions == 2:
            die()
        super().commit(entries)


async def main(file: str) -> None:
    async with Runtime(DeadlyStore(file), workflows=[booking]) as runtime:
        balance: int = await runtime.execute(booking, run_id="r")
        print(balance, flush=True)


if __name__ == "__main__":
    place = sys.argv[2] if len(sys.argv) > 2 else ""
    asyncio.run(main(sys.argv[1]))
