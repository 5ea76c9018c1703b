"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

# The server refuses to run as root; Debian's package makes this user.
SERVER_USER = "postgres"


def binaries() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = [Path(path).parent for path in (shutil.which("initdb"), shutil.which("postgres")) if path]
    # Debian keeps them out of PATH: /usr/lib/postgresql/15/bin.
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found += [path.parent for path in sorted(debian, key=lambda path: float(path.parts[-3]), reverse=True)]
    return next((path for path in found if (path / "postgres").exists() and (path / "initdb").exists()), None)


class PostgresServer:
    """A running server. Everything that it wrote is removed by `stop`.

    Args:
        durable: whether a commit waits for the disk; only tests that kill the server need it.
        settings: more `name=value` settings of the server.
    """

    def __init__(self, *, durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        programs = binaries()
        if programs is None:
            pytest.skip("no PostgreSQL server here: apt-get install postgresql")
        self._programs = programs
        self._user: dict[str, object] = {}
        # Not below pytest's folder: that one is closed to the server's user, and a socket's path has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="corelocker-pg-"))
        if os.geteuid() == 0:
            account = pwd.getpwnam(SERVER_USER)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        fast = () if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        self._settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", *fast, *settings)
        try:
            self._run("initdb", "--pgdata", str(self._data), "--auth", "trust", "--username", SERVER_USER,
                      "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")  # fmt: skip
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Start the server on the cluster, and wait until it answers."""
        arguments = [argument for setting in self._settings for argument in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self._user,
            )  # type: ignore[call-overload]  # fmt: skip
        for _ in range(600):
            try:
                psycopg.connect(self._conninfo("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        raise RuntimeError("the server does not start: " + (self.folder / "log").read_text("utf-8", "replace")[-2000:])

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int(self._process.pid)

    def kill(self) -> None:
        """What a power cut leaves behind, as far as a process can tell: no shutdown, no last checkpoint."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """The SQLAlchemy URL of a new, empty database: a schema and a role of its own, which take no files to make."""
        name = f"t{uuid.uuid4().hex}"
        role = sql.Identifier(name)
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role))
            connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(role, role))
        return f"postgresql+psycopg://{name}@/postgres?host={self.folder}"

    def _conninfo(self, database: str) -> str:
        return f"host={self.folder} user={SERVER_USER} dbname={database} connect_timeout=5"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, cwd=self.folder, **self._user
        )  # type: ignore[call-overload]
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr[-2000:]}")
