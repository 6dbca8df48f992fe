"""Many replicas on one PostgreSQL, beside DBOS on the same server: children a second on one, two and three replicas,
what a child costs the database, an invoke that crosses replicas, and the time until others take over.

    python benchmarks/bench_replicas.py [--n 2000] [--replicas 1 2 3]

Needs the extra `postgres`, and binaries of a server: see `tests/postgres_server.py`. Server, replicas and this process
share the machine: on two cores more replicas are not faster, they show what the protocol costs. `spilled` gives each
child to whichever replica claims it; `local` begins it where it is invoked.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import emit, median, options, parse, percentile, skip, tell
from dbos_fan_out import fan_out_on_dbos
from host import Setup, Stopwatch, in_fresh_process
from workloads import FanOut, trivial

from rotor_actors import Context, PostgresStore, Runtime, workflow

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from postgres_server import PostgresServer, all_binaries

LEASE = 2.0
PINGS = 300


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", trivial, number)


@workflow(id="local")
async def local(ctx: Context, count: int) -> int:
    invoked = [ctx.step.invoke(f"child {n}", workflow=child, data=n, timeout="1h") for n in range(count)]
    return sum(each.result for each in await asyncio.gather(*invoked))


@workflow(id="spilled")
async def spilled(ctx: Context, count: int) -> int:
    invoked = [
        ctx.step.invoke(f"child {n}", workflow=child, data=n, timeout="1h", placement="any") for n in range(count)
    ]
    return sum(each.result for each in await asyncio.gather(*invoked))


@workflow(id="pings")
async def pings(ctx: Context, count: int) -> list[float]:
    """How long each of so many invokes took, one after the other; this replica has no room for them."""
    took: list[float] = []
    for number in range(count):
        began = time.perf_counter()
        await ctx.step.invoke(f"ping {number}", workflow=child, data=number, timeout="1m", placement="any")
        took.append(time.perf_counter() - began)
    return took


WORKFLOWS = {each.id: each for each in (child, local, spilled, pings)}


def serve(pipe: Connection, url: str, schema: str, spill_above: int) -> None:
    """One replica: does what it is told until the pipe is closed."""

    async def main() -> None:
        store = PostgresStore(url, schema=schema, lease=LEASE)
        async with Runtime(store, workflows=WORKFLOWS.values(), spill_above=spill_above, drain_timeout=0) as runtime:
            pipe.send(os.getpid())
            while (asked := await asyncio.to_thread(_receive, pipe)) is not None:
                name, count = asked
                watch = Stopwatch()
                result = await runtime.execute(WORKFLOWS[name], count)
                pipe.send((watch(), result))

    asyncio.run(main())


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


class Replicas:
    """So many processes over one schema of their own."""

    def __init__(self, server: PostgresServer, schema: str, spill_above: list[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []
        for limit in spill_above:
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, server.url, schema, limit), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(mine)
        for pipe in self.pipes:
            pipe.recv()

    def do(self, name: str, count: int) -> tuple[float, Any]:
        self.pipes[0].send((name, count))
        answer: tuple[float, Any] = self.pipes[0].recv()
        return answer

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            process.kill()


@contextmanager
def replicas(server: PostgresServer, *spill_above: int) -> Generator[Replicas]:
    made = Replicas(server, f"bench_{time.monotonic_ns()}", list(spill_above))
    try:
        yield made
    finally:
        made.stop()


def cpu_seconds(server: PostgresServer) -> float:
    """Processor time of the server and all its processes, those that have ended and were waited for too."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent = int(place.parent.name), int(fields[1])
        if pid == server.pid:
            total += sum(map(int, fields[11:15]))
        elif parent == server.pid:
            total += sum(map(int, fields[11:13]))
    return total / ticks


def wal_bytes(server: PostgresServer) -> int:
    async def ask() -> int:
        asyncpg = importlib.import_module("asyncpg")
        connection = await asyncpg.connect(server.url)
        try:
            return int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def measure_fan_out(server: PostgresServer, setup: Setup, name: str, count: int, number: int) -> float:
    times: list[float] = []
    cpu, wal = 0.0, 0
    for _ in range(setup.repeat):
        with replicas(server, *([10 * count] if name == "local" else [count // 4]) * number) as all_of_them:
            all_of_them.do(name, 50)
            time.sleep(LEASE)  # by then each knows of the others
            cpu_before, wal_before = cpu_seconds(server), wal_bytes(server)
            seconds, result = all_of_them.do(name, count)
            assert result == FanOut(count).expected
            times.append(seconds)
            cpu, wal = cpu_seconds(server) - cpu_before, wal_bytes(server) - wal_before
    emit(f"replicas_{name}", count, times, setup, replicas=number, children_per_second=count / median(times),
         postgres_cpu_us=cpu / count * 1e6, wal_bytes=wal / count)  # fmt: skip
    tell(
        f"{name} on {number}: {count / median(times):,.0f} children/s; a child costs PostgreSQL "
        f"{cpu / count * 1e6:.0f} us of CPU and {wal / count:,.0f} bytes of WAL"
    )
    return median(times)


def measure_pings(server: PostgresServer, setup: Setup) -> None:
    with replicas(server, 1, 1_000) as both:
        both.do("pings", 20)
        _, took = both.do("pings", PINGS)
    emit("replicas_invoke", PINGS, took, setup, p50_ms=median(took) * 1e3, p99_ms=percentile(took, 0.99) * 1e3)
    tell(f"an invoke across replicas: p50 {median(took) * 1e3:.1f} ms, p99 {percentile(took, 0.99) * 1e3:.1f} ms")


def measure_take_over(server: PostgresServer, setup: Setup, count: int) -> None:
    """From the kill of the replica that has the whole fan-out to the first child that ends on another."""
    times: list[float] = []
    for _ in range(setup.repeat):
        schema = f"bench_{time.monotonic_ns()}"
        made = Replicas(server, schema, [10 * count, 1_000])
        made.pipes[0].send(("local", count))
        ended = f"SELECT count(*) FROM {schema}.rotor_runs WHERE ended_at IS NOT NULL"
        while _ask(server, ended) < count // 10:
            time.sleep(0.01)
        made.processes[0].kill()
        watch = Stopwatch()
        time.sleep(0.05)  # what it had sent is committed
        before = _ask(server, ended)
        while _ask(server, ended) == before:
            time.sleep(0.01)
        times.append(watch())
        made.stop()
    emit("replicas_take_over", count, times, setup, lease=LEASE)
    tell(f"others go on {median(times):.1f} s after a kill -9, with a lease of {LEASE:g} s")


def _ask(server: PostgresServer, statement: str) -> int:
    async def ask() -> int:
        connection = await importlib.import_module("asyncpg").connect(server.url)
        try:
            return int(await connection.fetchval(statement))
        finally:
            await connection.close()

    return asyncio.run(ask())


def dbos_fan_out(url: str, count: int) -> float:
    return asyncio.run(fan_out_on_dbos(url, count))


def measure_dbos(server: PostgresServer, setup: Setup, count: int, ours: float) -> None:
    if importlib.util.find_spec("dbos") is None:
        skip("replicas_dbos", "dbos is not installed; it comes with the extra 'bench'", setup)
        return
    times: list[float] = []
    cpu_before, wal_before = cpu_seconds(server), wal_bytes(server)
    for number in range(setup.repeat):
        url = _new_database(server, f"dbos_{number}_{time.monotonic_ns()}")
        times.append(in_fresh_process(dbos_fan_out, url, count))
    cpu, wal = cpu_seconds(server) - cpu_before, wal_bytes(server) - wal_before
    emit("replicas_dbos", count, times, setup, children_per_second=count / median(times),
         postgres_cpu_us=cpu / count / setup.repeat * 1e6, wal_bytes=wal / count / setup.repeat,
         ratio=median(times) / ours)  # fmt: skip
    tell(f"DBOS: {count / median(times):,.0f} children/s; ours on one replica, local: {median(times) / ours:.0f} times")


def _new_database(server: PostgresServer, name: str) -> str:
    async def create() -> None:
        connection = await importlib.import_module("asyncpg").connect(server.url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()

    asyncio.run(create())
    return server.url.rpartition("/")[0] + f"/{name}"


def main() -> None:
    parser = options(__doc__, n=[2_000], repeat=3)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dbos-n", type=int, default=500, help="children on DBOS (default: 500)")
    args, setup = parse(parser)
    binaries = all_binaries()
    if not binaries:
        skip("replicas", "there is no PostgreSQL on this machine", setup)
        return
    server = PostgresServer(next(iter(binaries.values())), "fsync=on", "synchronous_commit=on", "full_page_writes=on")
    server.start()
    tell(f"PostgreSQL {next(iter(binaries))}, fsync on")
    try:
        for count in args.n:
            for number in args.replicas:
                for name in ("local", "spilled"):
                    measure_fan_out(server, setup, name, count, number)
        ours = measure_fan_out(server, setup, "local", args.dbos_n, 1)
        measure_dbos(server, setup, args.dbos_n, ours)
        measure_pings(server, setup)
        measure_take_over(server, setup, 4_000)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
