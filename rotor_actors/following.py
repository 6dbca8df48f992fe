"""Following what runs report of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from rotor_actors.looking import Looking
from rotor_actors.progress import Report, Subscription, reports_of
from rotor_actors.records import RunRow
from rotor_actors.views import Update, update_of


class Following(Looking):
    """The methods of `Runtime` by which handles follow a run."""

    async def updates_of(self, run_id: str, key: str | None = None) -> AsyncGenerator[Update, None]:
        """What `RunHandle.updates` gives, by run id."""
        engine = self._open()
        row = await self._row(run_id)
        subscription, end = engine.progress.subscribe(row.n)
        run = engine.tree.get(row.n)
        assert self._service is not None
        ended = None if run is None or run.row.status.is_terminal else self._service.wait_for(run)
        try:
            seen: dict[str, tuple[int, int]] = {}
            for name, report in sorted((await self._reports(row.n)).items(), key=lambda each: each[1].place):
                if key in (None, name):
                    yield _seen(seen, name, report, 0)
            while ended is not None:
                await _either(subscription, ended)
                for update in _taken(subscription, seen, key):
                    yield update
                if ended.done():
                    ended.result()  # closed, or the store failed: whoever follows is told
                    break
            for name, report in sorted((await self._reports(row.n)).items(), key=lambda each: each[1].place):
                if key in (None, name) and report.place > seen.get(name, (0, 0)):
                    yield _seen(seen, name, report, 0)
        finally:
            end()
            if ended is not None:
                ended.cancel()

    async def _reports(self, n: int) -> dict[str, Report]:
        return await self._read(lambda store: reports_of(store, n))


async def _either(subscription: Subscription, ended: asyncio.Future[RunRow]) -> None:
    """Wait for a report, or the run's end."""
    ended.add_done_callback(lambda _: subscription.wake.set())
    await subscription.wake.wait()
    subscription.wake.clear()


def _taken(subscription: Subscription, seen: dict[str, tuple[int, int]], key: str | None) -> list[Update]:
    waiting, subscription.waiting = subscription.waiting, {}
    return [
        _seen(seen, name, report, missed)
        for name, (report, missed) in waiting.items()
        if key in (None, name) and report.place > seen.get(name, (0, 0))
    ]


def _seen(seen: dict[str, tuple[int, int]], name: str, report: Report, missed: int) -> Update:
    seen[name] = report.place
    return update_of(name, report.value, report.attempt, report.at, missed)
