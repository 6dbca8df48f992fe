"""Money that moves exactly once, progress that can be followed, and a run taken up where it failed.

    python examples/bookings.py [STORE]

Each transfer is one transaction of the store's own file: the rows of the table `accounts` and the step's memo are
written together, so a crash between them cannot be. The third transfer fails, for there is not enough money; after a
deposit the run is resumed, and goes on with that transfer. The first two are not made again.
"""

from __future__ import annotations

import asyncio
import os
import sys

from rotor_actors import Context, Runtime, Transaction, workflow
from rotor_actors.errors import WorkflowFailedError

TABLE = "CREATE TABLE IF NOT EXISTS accounts(name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0))"


def deposit(tx: Transaction, name: str, amount: int) -> None:
    """Put money into an account."""
    tx.execute(TABLE)
    tx.execute("INSERT INTO accounts VALUES (?, 0) ON CONFLICT DO NOTHING", (name,))
    tx.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, name))


def transfer(tx: Transaction, source: str, target: str, amount: int) -> None:
    """Move money; the table refuses an account below zero, and then nothing is moved."""
    deposit(tx, target, amount)
    deposit(tx, source, -amount)


def balances(tx: Transaction) -> dict[str, int]:
    """What everybody has."""
    return dict(tx.execute("SELECT name, balance FROM accounts ORDER BY name"))


@workflow(id="deposit")
async def put_money(ctx: Context, amount: int) -> None:
    """Somebody brings money to the bank."""
    await ctx.step.transaction("deposit", deposit, "bank", amount)


@workflow(id="payroll", retries=0)
async def payroll(ctx: Context, salaries: dict[str, int]) -> dict[str, int]:
    """Pay everybody, and say how far it has come."""
    for number, (name, amount) in enumerate(salaries.items()):
        ctx.report({"paid": number, "of": len(salaries)})
        await ctx.step.transaction(f"pay {name}", transfer, "bank", name, amount)
    ctx.report({"paid": len(salaries), "of": len(salaries)})
    return await ctx.step.transaction("balances", balances)


async def main(store: str | os.PathLike[str] = ":memory:") -> dict[str, int]:
    """Fail for want of money, bring some, resume."""
    async with Runtime(store, workflows=[payroll, put_money]) as runtime:
        await runtime.execute(put_money, 250)
        handle = await runtime.start(payroll, {"alice": 100, "bob": 100, "carol": 100}, run_id="payroll-1")
        try:
            return await handle.result()
        except WorkflowFailedError:
            print(await runtime.why("payroll-1"))
        await runtime.execute(put_money, 100)
        await runtime.resume("payroll-1")
        async for update in handle.updates():
            print(f"paid {update.value['paid']} of {update.value['of']} (attempt {update.attempt})")
        return await handle.result()


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:2])))
