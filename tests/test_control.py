"""The control socket: who may ask, and what a visitor who says nothing can keep from happening: nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from rotor_actors import Runtime, RuntimeView, control
from rotor_actors.errors import DurationError

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not control.is_possible(), reason="this system has no such sockets"),
]


async def test_somebody_who_has_come_and_says_nothing_is_shown_out_when_the_runtime_closes(tmp_path: Path) -> None:
    store = tmp_path / "rotor.db"
    async with Runtime(store):
        reader, writer = await asyncio.open_unix_connection(control.address_of(store))
        assert (await asyncio.to_thread(control.ask, store, "ping"))["pid"] == os.getpid()
    async with asyncio.timeout(10):  # it comes at once; without it the test would wait for ever
        assert await reader.read() == b""
    writer.close()
    assert not os.path.exists(control.address_of(store))  # noqa: ASYNC240 - of this test's own directory


async def test_a_socket_of_another_user_is_sent_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "rotor.db"
    store.touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(control.address_of(store))
        other.listen()
        other.setblocking(False)
        real, address = os.stat, control.address_of(store)

        def as_seen(path: Any, **how: Any) -> os.stat_result:
            seen = real(path, **how)
            is_socket = str(path) == address
            return os.stat_result((*seen[:4], 4711, *seen[5:10])) if is_socket else seen

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", as_seen)
            with pytest.raises(control.ControlError, match="belongs to another user"):
                control.ask(store, "start", workflow="secret")
        with pytest.raises(BlockingIOError):
            other.accept()


async def test_an_owner_that_does_not_answer_is_a_named_error_after_a_while(tmp_path: Path) -> None:
    store = tmp_path / "rotor.db"
    async with Runtime(store):
        with pytest.raises(
            control.ControlTimeoutError, match=r"did not answer 'ping' within 50ms; look whether it was"
        ):
            control.ask(store, "ping", within="50ms")  # here and now, so that the loop which would answer is blocked
        assert (await asyncio.to_thread(control.ask, store, "ping"))["pid"] == os.getpid()
    with pytest.raises(DurationError, match="within"):
        control.ask(store, "ping", within=0)


async def test_a_view_shows_that_the_owner_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **how: object) -> None:
        assert how == {"within": "5s"}
        raise control.ControlTimeoutError("silent")

    async with Runtime(tmp_path / "rotor.db"):
        monkeypatch.setattr(control, "ask", silent)
        async with RuntimeView(tmp_path / "rotor.db") as view:
            facts = dict(await view._facts())  # pyright: ignore[reportPrivateUsage]
    assert "does not answer" in facts["Owner"]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRESQL"])
async def test_a_store_without_one_owner_is_refused_by_name_and_its_password_is_not_told(scheme: str) -> None:
    with pytest.raises(control.ControlError, match="is no file with one owner") as refused:
        control.ask(f"{scheme}://rotor:s3cret@127.0.0.1:5432/shop", "start", workflow="heavy")
    assert f"{scheme}://rotor@127.0.0.1:5432/shop" in str(refused.value)
    assert "s3cret" not in f"{refused.value!r} {refused.value.__cause__} {refused.value.__context__}"
