"""Three simulated machines: network namespaces with their own names, processes and links, around one PostgreSQL.

Each host has a link to a bridge and reaches the server through a relay at the address of the bridge. A cut link drops
packets without notice, like a pulled cable. A killed host takes all its processes with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional

from sqlalchemy.engine import URL

from tests.commands.conftest import ENTRY
from tests.deadline import DEADLINE

# The network never leaves this machine. Names are of this process, because other tests may run beside it.
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PREFIX = f"172.31.{100 + _NUMBER}"
_BRIDGE = f"qctl{_NUMBER}"


def can_have_hosts() -> Optional[str]:
    """Why this machine cannot have hosts; None if it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    tried = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "network namespaces need ip(8) (Debian: apt install iproute2)"


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


class Network:
    """The bridge, and the relay to a server that listens on a Unix socket only."""

    def __init__(self, server: URL) -> None:
        self._hosts: list[Host] = []
        _ip("link", "del", _BRIDGE, check=False)  # left by a killed run
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_PREFIX}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        self._relay = _Relay((f"{_PREFIX}.1", 0), server)
        self.url = f"postgresql://{server.username}@{_PREFIX}.1:{self._relay.port}/{server.database}"

    def host(self, name: str, folder: Path) -> Host:
        one = Host(name, len(self._hosts) + 2, self.url, folder)
        self._hosts.append(one)
        return one

    def close(self) -> None:
        for host in self._hosts:
            host.close()
        self._relay.close()
        _ip("link", "del", _BRIDGE, check=False)


class Host:
    """A machine: its name, link and processes."""

    def __init__(self, name: str, number: int, url: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._space, self._link = f"{_BRIDGE}-{name}", f"{_BRIDGE}-{number}"
        self._processes: list[subprocess.Popen[bytes]] = []
        _ip("netns", "del", self._space, check=False)
        _ip("netns", "add", self._space)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        _ip("link", "set", self._link, "master", _BRIDGE, "up")
        for words in (("addr", "add", f"{_PREFIX}.{number}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                      ("link", "set", "lo", "up")):  # fmt: skip
            _ip("-n", self._space, *words)
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("QUEUECTL_")},
            "QUEUECTL_HOME": str(folder / f"home-{name}"),
            "QUEUECTL_DATABASE_URL": url,
            "QUEUECTL_VENV": sys.prefix,
        }

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command of the product. It sees no process of another host."""
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name, sys.executable, str(ENTRY), *argv]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._space, *apart, *named],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, **environment},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(self, *argv: str) -> str:
        """Run a command of the product, which must succeed; return its output."""
        process = subprocess.run(
            ["ip", "netns", "exec", self._space, sys.executable, str(ENTRY), *argv],
            capture_output=True, text=True, check=False, env=self._environment, timeout=DEADLINE,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process.stdout

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def cut(self) -> None:
        """Drop all packets in both directions from now on."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        _ip("link", "set", self._link, "up")

    def die(self) -> None:
        """KILL all its processes and commands at once, without notice to others: the link is cut first."""
        self.cut()
        self.stop()

    def stop(self) -> None:
        """KILL all its processes; the kernel closes their connections."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEADLINE)
        self._processes.clear()

    def close(self) -> None:
        self.die()
        _ip("netns", "del", self._space, check=False)
        _ip("link", "del", self._link, check=False)


class _Relay:
    """Passes bytes between TCP connections and the server's socket."""

    def __init__(self, address: tuple[str, int], server: URL) -> None:
        self._server = server
        self._listener = socket.create_server(address)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer, _ = self._listener.accept()
                inner = self._connect()
                outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, target in ((outer, inner), (inner, outer)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._server.host or self._server.query.get("host")), self._server.port or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        inner = socket.socket(socket.AF_UNIX)
        inner.connect(f"{host}/.s.PGSQL.{port}")
        return inner

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(65536):
                target.sendall(some)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
