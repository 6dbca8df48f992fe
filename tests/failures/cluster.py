"""Real processes over a real PostgreSQL, and what must hold when they have come to rest."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

PROGRAM = ("-m", "programs.replica")
TESTS = Path(__file__).parent.parent
START_SECONDS = 30.0


class Replica:
    """One process."""

    def __init__(
        self, url: str, ledger: Path, label: str, log: Path, *options: str, within: tuple[str, ...] = ()
    ) -> None:
        self.label = label
        self.log = log
        command = [*within, sys.executable, *PROGRAM, url, str(ledger), "--label", label, *options]
        self._opened: Future[Any] = Future()
        self._answers: dict[int, Future[Any]] = {0: self._opened}
        self._next = 0
        self._writing = threading.Lock()
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=TESTS
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_open(self) -> Replica:
        self._opened.result(START_SECONDS)
        return self

    def ask(self, verb: str, **arguments: Any) -> Future[Any]:
        """Have it do something; the future has its answer."""
        with self._writing:
            self._next += 1
            number = self._next
            answer = self._answers[number] = Future()
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"id": number, "verb": verb, "with": arguments}) + "\n")
            self.process.stdin.flush()
        return answer

    def do(self, verb: str, timeout: float = 60.0, **arguments: Any) -> Any:
        return self.ask(verb, **arguments).result(timeout)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            answer = self._answers.pop(said["id"])
            if "error" in said:
                answer.set_exception(RuntimeError(f"{self.label}: {said['error']}"))
            else:
                answer.set_result(said["value"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(
                    EOFError(f"replica {self.label} has ended; its log: {self.log.read_text()[-2_000:]}")
                )

    def says(self, text: str) -> bool:
        """In its log."""
        return text in self.log.read_text()

    @property
    def lives(self) -> int:
        """How often it began anew."""
        return self.log.read_text().count("began anew as replica")

    def wait_for_end(self, timeout: float = START_SECONDS) -> int:
        """Of itself; gives its exit code."""
        return self.process.wait(timeout)

    # Faults

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM: it drains and ends."""
        self.process.terminate()
        return self.process.wait(timeout)

    def stop(self) -> None:
        """However it stands."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Cluster:
    """Replicas over one schema.

    Args:
        url: of a database; `schema` is made in it, and dropped by `close`.
        directory: for ledger and logs.
    """

    def __init__(self, url: str, schema: str, directory: Path) -> None:
        self.url = url
        self.schema = schema
        self._directory = directory
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.replicas: list[Replica] = []

    def url_of(self, address: str = "", user: str = "") -> str:
        """The URL of the schema; at another address, of a proxy, or as another user, if one is given."""
        url = _with_address(self.url, address) if address else self.url
        if user:
            url = url.replace("//postgres@", f"//{user}@")
        return f"{url}{'&' if '?' in url else '?'}schema={self.schema}"

    def add(
        self, label: str, *options: str, address: str = "", user: str = "", within: tuple[str, ...] = ()
    ) -> Replica:
        """One more; `within` is what its command is given to, as in `ip netns exec`."""
        log = self._directory / f"{label}.log"
        replica = Replica(self.url_of(address, user), self.ledger, label, log, *options, within=within)
        self.replicas.append(replica)
        return replica

    def add_all(self, labels: str, *options: str) -> list[Replica]:
        return [each.wait_until_open() for each in [self.add(label, *options) for label in labels]]

    def add_all_as(self, user: str, labels: str, *options: str) -> list[Replica]:
        """As a user of the database, with a password: `name:password`."""
        return [each.wait_until_open() for each in [self.add(label, *options, user=user) for label in labels]]

    def close(self) -> None:
        for each in self.replicas:
            each.stop()
        self.sql(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')

    def named(self, label: str) -> Replica:
        return next(each for each in reversed(self.replicas) if each.label == label)

    # Looking

    def coordinator(self) -> Replica:
        """The one that coordinates, once there is one that lives."""
        asked = "SELECT label FROM rotor_replicas JOIN rotor_desk ON number = coordinator"
        found: list[Replica] = []

        def is_there() -> bool:
            found[:] = [self.named(row[0]) for row in self.sql(asked)]
            return any(each.process.poll() is None for each in found)

        self.wait_until(is_there, 30.0, "a coordinator")
        return found[0]

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.url, server_settings={"search_path": self.schema})
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def count_transitions(self) -> None:
        """Count each accepted terminal transition, in a table without a unique key."""
        self.sql(
            """
            DO $do$ BEGIN
            CREATE TABLE audit(n bigint, status text, at timestamptz DEFAULT clock_timestamp());
            CREATE FUNCTION note_end() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                SET search_path FROM CURRENT AS $$ BEGIN
                INSERT INTO audit(n, status) VALUES (NEW.n, NEW.status::text); RETURN NEW; END $$;
            CREATE TRIGGER ended_by_update AFTER UPDATE ON rotor_runs FOR EACH ROW
                WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION note_end();
            CREATE TRIGGER ended_again AFTER UPDATE ON rotor_runs FOR EACH ROW
                WHEN (OLD.ended_at IS NOT NULL AND NEW.ended_at IS DISTINCT FROM OLD.ended_at)
                EXECUTE FUNCTION note_end();
            CREATE TRIGGER ended_at_once AFTER INSERT ON rotor_runs FOR EACH ROW
                WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION note_end();
            END $do$
            """
        )

    @contextmanager
    def open_transaction(self, statement: str) -> Generator[None]:
        """A client that has begun, and does not go on."""
        loop = asyncio.new_event_loop()
        connection = loop.run_until_complete(asyncpg.connect(self.url, server_settings={"search_path": self.schema}))
        loop.run_until_complete(connection.execute("BEGIN"))
        loop.run_until_complete(connection.fetch(statement))
        try:
            yield
        finally:
            loop.run_until_complete(connection.close())
            loop.close()

    # What must be found out

    def take_the_fence_away(self) -> None:
        """Let replicas commit whose lease has run out."""
        for name in ("rotor_commit", "rotor_claim"):
            (row,) = self.sql("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = "
                              "(SELECT oid FROM pg_namespace WHERE nspname = $2)", name, self.schema)  # fmt: skip
            text = re.sub(r"IF NOT FOUND THEN\s+RETURN[^;]*;\s+END IF;", "", row[0], count=1)
            assert text != row[0]
            self.sql(text)

    def cancel_by_one_statement(self, root: str) -> None:
        self.sql(
            """
            WITH RECURSIVE tree AS (
                SELECT n FROM rotor_runs WHERE run_id = $1
                UNION ALL SELECT r.n FROM rotor_runs AS r JOIN tree ON r.parent_n = tree.n)
            UPDATE rotor_runs SET status = 'cancelled', ended_at = extract(epoch FROM clock_timestamp()), owner = NULL
            WHERE n IN (SELECT n FROM tree) AND ended_at IS NULL
            """,
            root,
        )

    def owned_by_the_dead(self) -> int:
        found = self.sql("SELECT count(*) FROM rotor_runs WHERE owner NOT IN (SELECT number FROM rotor_replicas)")
        return int(found[0][0])

    def effects(self) -> Counter[tuple[str, str]]:
        """How often the body of each step was executed."""
        lines = (line.split() for line in self.ledger.read_text().splitlines())
        return Counter((run_id, key) for run_id, key, _ in lines)

    def ticks(self) -> dict[str, list[float]]:
        """When each replica's ticking steps wrote, by the clock of this machine."""
        found: dict[str, list[float]] = {}
        for line in self.ledger.read_text().splitlines():
            _, key, label = line.split()
            if key.startswith("tick@"):
                found.setdefault(label, []).append(float(key.removeprefix("tick@")))
        return found

    def labels_at_work(self) -> set[str]:
        return {line.split()[2] for line in self.ledger.read_text().splitlines()}

    def wait_for_effects(self, count: int, timeout: float = 60.0) -> None:
        self.wait_until(lambda: len(self.ledger.read_bytes().splitlines()) >= count, timeout, "enough effects")

    def wait_until(
        self, holds: Callable[[], bool], timeout: float = 60.0, what: str = "it", *, pause: float = 0.02
    ) -> None:
        limit = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > limit:
                raise AssertionError(f"waited {timeout:g} s for {what} in vain; {self.state()}")
            time.sleep(pause)

    def state(self) -> str:
        runs = self.sql("SELECT status::text, owner, count(*) FROM rotor_runs GROUP BY 1, 2")
        logs = "\n".join(each.log.read_text()[-1_500:] for each in self.replicas)
        return f"runs: {[tuple(row) for row in runs]}\n{logs}"

    # What must hold

    def live(self) -> int:
        return int(self.sql("SELECT count(*) FROM rotor_runs WHERE ended_at IS NULL")[0][0])

    def spawned(self) -> int:
        return int(self.sql("SELECT count(*) FROM rotor_runs")[0][0])

    def wait_for_spawned(self, count: int) -> None:
        """Until there are so many runs, and hardly any more: in the middle of what spawns them."""
        self.wait_until(lambda: self.spawned() >= count, what=f"{count} runs", pause=0.001)

    def ends(self) -> tuple[int, int]:
        """How many terminal transitions were accepted, and of how many runs."""
        ended, distinct = self.sql("SELECT count(*), count(DISTINCT n) FROM audit")[0]
        return ended, distinct

    def come_to_rest(self, timeout: float = 90.0) -> None:
        """All runs have ended, and nothing is left that somebody would have to do."""
        self.wait_until(lambda: self.live() == 0, timeout, "all runs to end")
        self.wait_until(
            lambda: not self.sql("SELECT 1 FROM rotor_mail LIMIT 1"), min(10.0, timeout), "all mail to be taken"
        )

    def check(self, timeout: float = 90.0) -> None:
        """Each run ended once, and whoever asked has the truth."""
        self.come_to_rest(timeout)
        ended, distinct = self.ends()
        runs = self.sql("SELECT count(*), count(DISTINCT run_id) FROM rotor_runs")[0]
        assert ended == distinct == runs[0] == runs[1], f"{ended} ends of {distinct} runs; rows: {tuple(runs)}"
        twice = self.sql(
            "SELECT parent_n, parent_key FROM rotor_runs WHERE parent_n IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1"
        )
        assert not twice, f"spawned twice: {twice}"


def _with_address(url: str, address: str) -> str:
    head, _, tail = url.rpartition("@")
    return f"{head}@{address}/{tail.partition('/')[2]}"
