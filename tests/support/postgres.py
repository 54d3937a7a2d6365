"""A PostgreSQL server of the system's package while a test needs one: on loopback, with a directory of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

USER = "lorasweep"
START_SECONDS = 600.0  # ends a hang only


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that can be stopped at once and started again, its data kept."""

    binaries: Path
    data: Path
    port: int
    password: str
    account: str | None  # of the system, under which it runs; None: this process's own

    @property
    def url(self) -> str:
        """The URL that Optuna takes."""
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._run("pg_ctl", "-D", self.data, "-o", options, "-l", self.data / "log", "-w", "start")

    def stop(self) -> None:
        """Stop it as a power cut would."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def _run(self, name: str, *args: object) -> None:
        run_as(self.account, self.binaries / name, *args)


def run_as(account: str | None, *command: object) -> None:
    """Run a command, as another user of the system if one is given."""
    words = [str(word) for word in command]
    more = {} if account is None else {"user": account, "group": account, "extra_groups": []}
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", timeout=START_SECONDS, check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **more,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")


def binaries() -> Path | None:
    """Return the directory of the newest server's programs, or None: apt-get install postgresql brings them."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve().parent)
    return max(found, key=lambda path: path.parent.name.zfill(4), default=None)


@contextmanager
def server() -> Iterator[Server]:
    """Yield a server that runs; it and its data are gone afterwards."""
    where = binaries()
    assert where is not None, "no server programs"
    account = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    password = f"p@s:s/{secrets.token_hex(8)}"
    try:
        (home / "password").write_text(password)
        if account is not None:
            for path in (home, home / "password"):
                shutil.chown(path, account)
        run_as(account, where / "initdb", "-D", home / "data", "-U", USER, "-A", "scram-sha-256", "-E", "UTF8",
               f"--pwfile={home / 'password'}")  # fmt: skip
        one = Server(binaries=where, data=home / "data", port=_free_port(), password=password, account=account)
        one.start()
        try:
            yield one
        finally:
            one.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens_on(port: int) -> set[str]:
    """Return the addresses on which something listens at a port, of /proc/net/tcp and tcp6, in its hexadecimal form."""
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, _, number = address.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(host)
    return found
