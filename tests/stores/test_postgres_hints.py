"""Hints between replicas, and what becomes of the connection that they go by."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from failures.proxy import Mode, Proxy
from postgres_kit import a_url

from rotor_actors.stores.postgres import hints
from rotor_actors.stores.postgres.address import parsed
from rotor_actors.stores.postgres.hints import Hints


def test_a_connection_that_was_dropped_without_a_word_is_made_anew_and_holds_up_no_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(hints, "_RETRY_SECONDS", 0.1)
    address = urlsplit(a_url())
    proxy = Proxy(address.port or 5432)
    url = address._replace(netloc=f"{address.username}@127.0.0.1:{proxy.port}").geturl()

    async def main() -> None:
        connected = asyncio.Event()
        told = Hints(parsed(url), "some_schema", 1, connected.set)
        await told.start()
        try:
            await asyncio.wait_for(connected.wait(), 20)
            connected.clear()
            proxy.set(Mode.HOLD)
            told.tell([2])
            await asyncio.wait_for(told.sent(), 10)
            proxy.set(Mode.PASS)
            await asyncio.wait_for(connected.wait(), 20)
        finally:
            await told.stop()

    try:
        asyncio.run(main())
    finally:
        proxy.set(Mode.PASS)
        proxy.cut_all()
        proxy.close()
