"""`rotor serve` keeps a runtime open; `rotor dashboard` shows a store. Both stop in good order when told to, at once when
told twice."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rotor_actors.cli.main import DONE, UsageError
from rotor_actors.cli.replicating import serve_replicas
from rotor_actors.cli.stopping import stop_at_end_of_input, stopping
from rotor_actors.cli.stores import stores_of
from rotor_actors.cli.targets import load_runtime
from rotor_actors.errors import StoreError, StoreVersionError
from rotor_actors.runtime import Runtime
from rotor_actors.runtime_view import RuntimeView

# Of PostgreSQL: wrong password, user not let in, no such database, permission denied.
_REFUSALS = ("28P01", "28000", "3D000", "42501")


def serve(options: argparse.Namespace) -> int:
    """Keep a runtime open until SIGTERM or Ctrl-C; or with `--replicas` that many, each in a process of its own."""
    was_asked_for = options.store_given and not options.supervised  # our own children are always told one
    runtime = load_runtime(options.app, options.store, must_use_store=was_asked_for)
    if options.replicas is not None:
        return serve_replicas(runtime, options)
    asyncio.run(_serve(runtime, options))
    return DONE


async def _serve(runtime: Runtime, options: argparse.Namespace) -> None:
    async with stopping() as stop, _opened(runtime, options):
        if options.supervised:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop_at_end_of_input, stop)
        print(f"serving {options.app}, pid {os.getpid()}", file=sys.stderr, flush=True)
        if options.port is None:
            await stop.wait()
        else:
            await serve_app(runtime.dashboard(), options.host, options.port, stop, runtime.announce_stop)


@asynccontextmanager
async def _opened(runtime: Runtime, options: argparse.Namespace) -> AsyncGenerator[None]:
    """Open it. Raises UsageError: under `--replicas` who keeps us alive is told so that trying again is of no use."""
    try:
        await runtime.__aenter__()
    except StoreError as error:
        if options.supervised and _is_for_good(error):
            raise UsageError(f"{type(error).__name__}: {error}") from error
        raise
    try:
        yield
    finally:
        await runtime.__aexit__(None, None, None)


def _is_for_good(error: StoreError) -> bool:
    """Is it the configuration's fault, so that it will not open however often it is tried?"""
    state = getattr(error.__cause__, "sqlstate", None)
    return isinstance(error, StoreVersionError) or isinstance(error.__cause__, ImportError) or state in _REFUSALS


def dashboard(options: argparse.Namespace) -> int:
    """Serve the dashboard of a store; what is done on it, the process that owns the store does."""

    async def show() -> None:
        async with stopping() as stop, RuntimeView(stores_of(options.store)) as view:
            await serve_app(view.dashboard(insecure=options.insecure), options.host, options.port, stop)

    asyncio.run(show())
    return DONE


async def serve_app(
    app: Any, host: str, port: int, stop: asyncio.Event, announce: Callable[[], None] = lambda: None
) -> None:
    """Serve an ASGI app with uvicorn until `stop` is set.

    Raises:
        UsageError: uvicorn is not installed, or the address is taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UsageError("this needs uvicorn, which the extra 'dashboard' brings: pip install uvicorn") from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield  # signals are ours

    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise UsageError(f"cannot listen at {host}:{port}: {error}; choose another --port") from error
    with listener:
        server = Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        print(f"dashboard at http://{host}:{listener.getsockname()[1]}/", file=sys.stderr, flush=True)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        announce()
        server.should_exit = True
        await serving
