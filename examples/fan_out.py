"""Fan-out: many children at once with `asyncio.gather`, and what becomes of one that fails.

python examples/fan_out.py
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import NonRetriableError

COMPANIES = ["acme.test", "globex.test", "initech.test", "no such company", "umbrella.test"]


@dataclass(frozen=True)
class Profile:
    domain: str
    employees: int


@dataclass(frozen=True)
class Report:
    profiles: list[Profile]
    missing: list[str]


async def look_up(domain: str) -> Profile:
    """Stand-in for a request: a step's body runs on the host's event loop and may do I/O."""
    await asyncio.sleep(0.05)
    if not domain.endswith(".test"):
        raise NonRetriableError(f"{domain!r} is not a domain")  # no retry could change that
    return Profile(domain, employees=10 * len(domain))


@workflow(id="enrich")
async def enrich(ctx: Context, domain: str) -> Profile:
    return await ctx.step.run("look up", look_up, domain)


@workflow(id="enrich-all")
async def enrich_all(ctx: Context, domains: list[str]) -> list[Profile]:
    """`step.invoke` raises when a child fails, so `gather` does, and the siblings are cancelled."""
    invocations = await asyncio.gather(
        *(ctx.step.invoke(f"enrich {domain}", workflow=enrich, data=domain, timeout="5m") for domain in domains)
    )
    return [invocation.result for invocation in invocations]


@workflow(id="enrich-most")
async def enrich_most(ctx: Context, domains: list[str]) -> Report:
    """`ctx.invoke` never raises for a child's end: the outcome says what it was."""
    outcomes = await asyncio.gather(*(ctx.invoke(domain, workflow=enrich, body=domain) for domain in domains))
    missing = [
        f"{domain}: {outcome.error.message if outcome.error else 'was cancelled'}"
        for domain, outcome in zip(domains, outcomes, strict=True)
        if outcome.is_failed or outcome.is_canceled
    ]
    return Report([outcome.body for outcome in outcomes if outcome.body is not None], missing)


async def main(store: str | os.PathLike[str] = ":memory:") -> Report:
    """Enrich all companies that are known, then those and one more."""
    known = [domain for domain in COMPANIES if domain.endswith(".test")]
    async with Runtime(store, workflows=[enrich, enrich_all, enrich_most]) as runtime:
        profiles = await runtime.execute(enrich_all, known)
        print(f"all of {len(known)}: {sum(profile.employees for profile in profiles)} employees")
        report = await runtime.execute(enrich_most, COMPANIES)
        print(f"most of {len(COMPANIES)}: {len(report.profiles)} profiles, missing: {'; '.join(report.missing)}")
    return report


if __name__ == "__main__":
    asyncio.run(main())
