"""Following what runs report of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rotor_actors.clock import Cancellable
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.looking import Looking
from rotor_actors.progress import Report, Subscription, reports_of
from rotor_actors.records import RunRow
from rotor_actors.run import Phase, Run
from rotor_actors.views import Update, update_of

_LOOK_SECONDS = 1.0


class Following(Looking):
    """The methods of `Runtime` by which handles follow a run."""

    async def updates_of(self, run_id: str, key: str | None = None) -> AsyncGenerator[Update, None]:
        """What `RunHandle.updates` gives, by run id."""
        seen: dict[str, tuple[int, int]] = {}
        while True:
            service = self._service
            try:
                async with aclosing(self._updates(run_id, key, seen)) as updates:
                    async for update in updates:
                        yield update
                return
            except StoreError as error:
                if service is None:
                    raise
                await self._next_life(service, error)

    async def _updates(
        self, run_id: str, key: str | None, seen: dict[str, tuple[int, int]]
    ) -> AsyncGenerator[Update, None]:
        """Those that were not seen, for as long as this life of the runtime lasts."""
        engine = self._open()
        row = await self._row(run_id)
        subscription, end = engine.progress.subscribe(row.n)
        ended: asyncio.Future[RunRow] | None = None
        try:
            run = engine.tree.get(row.n)
            if engine.sharing is not None and not row.status.is_terminal:
                live = await self._live_or_ended(run_id)
                run = live if isinstance(live, Run) else None
            if run is not None and not run.row.status.is_terminal:
                assert self._service is not None
                ended = self._service.wait_for(run)
                ended.add_done_callback(lambda _: subscription.wake.set())
            for update in await self._newer(row.n, seen, key):
                yield update
            while ended is not None:
                await self._report_or_end(engine, row.n, subscription)
                for update in _taken(subscription, seen, key):
                    yield update
                if engine.sharing is not None and not _is_here(engine, row.n):
                    for update in await self._newer(row.n, seen, key):
                        yield update
                if ended.done():
                    ended.result()  # closed, or the store failed: whoever follows is told
                    break
            for update in await self._newer(row.n, seen, key):
                yield update
        finally:
            end()
            if ended is not None:
                ended.cancel()

    async def _newer(self, n: int, seen: dict[str, tuple[int, int]], key: str | None) -> list[Update]:
        """What the store holds of it that was not seen, in its order."""
        reports = sorted((await self._read(lambda store: reports_of(store, n))).items(), key=lambda each: each[1].place)
        return [
            _seen(seen, name, report, 0)
            for name, report in reports
            if key in (None, name) and report.place > seen.get(name, (0, 0))
        ]

    async def _report_or_end(self, engine: Engine, n: int, subscription: Subscription) -> None:
        """Wait for a report, or the run's end. Of what another replica records nobody tells us: it is looked at each
        second. A run that is here may be elsewhere a second later; that takes real time, whatever clock is moved."""
        alarm: Cancellable | None = None
        if engine.sharing is not None and _is_here(engine, n):
            alarm = asyncio.get_running_loop().call_later(_LOOK_SECONDS, subscription.wake.set)
        elif engine.sharing is not None:
            clock = engine.ports.clock
            alarm = clock.call_at(clock.now() + _LOOK_SECONDS, subscription.wake.set)
        try:
            await subscription.wake.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        subscription.wake.clear()


def _is_here(engine: Engine, n: int) -> bool:
    run = engine.tree.get(n)
    return run is not None and run.phase is not Phase.REMOTE


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
