"""Serves the console: binds the socket, then gunicorn in this process (waitress on Windows).

What is served is made by `create_app()`; what keeps it running beside the workers is `worker/supervisor/supervisor.py`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from webapp.config import Config, ConfigError
from webapp.core import schema
from webapp.lib.sd_notify import NOBODY, Manager

if TYPE_CHECKING:
    from flask import Flask

THREADS = 8  # requests at a time in each process; pages are short, and SQLite has one writer anyway
TIMEOUT = 60  # seconds after which a process that stopped answering is replaced
GRACE = 10  # seconds that requests may take to end at a stop
BACKLOG = 512
WINDOWS = sys.platform == "win32"


def check_exposure(host: str, config: Config, insecure: bool) -> None:
    """Raises ConfigError where passwords would cross a network in the clear, and nobody said that this is wanted."""
    if insecure or _is_loopback(host) or (config.public_url or "").startswith("https://"):
        return
    raise ConfigError(
        f"{host} can be reached from other machines, and this console speaks plain HTTP: passwords could be read on "
        "the way. Put a proxy with HTTPS in front and name its address in QUEUECTL_PUBLIC_URL "
        "(https://queue.example.org), or say --insecure if the network is yours alone."
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. From now on connections wait in its queue, whoever serves them later.

    Raises ConfigError with one line that says why not, and which option to change.
    """
    host = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"there is no host {host!r}. Name an address of this machine with --host.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Windows lets two programs share a port unless one says otherwise; elsewhere REUSEADDR only skips TIME_WAIT.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return f"port {port} of {host} is taken by another program. Choose another, such as --port {other}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not listen on port {port} of {host}. Choose one above 1023, such as --port 8000."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine. Choose one with --host, such as --host 127.0.0.1."
    return f"cannot listen on port {port} of {host}: {error.strerror}. Choose others with --host and --port."


def address_of(listener: socket.socket, config: Config) -> str:
    """The console's address as a person types it, without a slash at its end."""
    if config.public_url is not None:
        return config.public_url
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(listener: socket.socket, processes: int, manager: Manager = NOBODY) -> int:
    """Serve the console on this socket until a signal says to stop; return the exit code. Raises ConfigError.

    `manager` hears of it, though not on Windows, where there is none.
    """
    app = _make()
    if WINDOWS:
        from waitress import serve as serve_threads

        serve_threads(app, sockets=[listener], threads=THREADS, ident=None)
        return 0
    return _gunicorn(app, listener, processes, manager)


def _make() -> Flask:
    """The application, whole and unconnected: no connection may cross the forks that follow."""
    from webapp import create_app
    from webapp.db.engines import db

    app = create_app()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
    return app


def _gunicorn(app: Flask, listener: socket.socket, processes: int, manager: Manager) -> int:
    from gunicorn.app.base import BaseApplication
    from gunicorn.glogging import Logger

    from webapp.lib.logs import WithoutSecrets
    from webapp.server.arbiter import NotifyingArbiter
    from webapp.server.request_timeout import PatientWorker, answer_plainly
    from webapp.web.headers import ALWAYS
    from webapp.web.schema_guard import SERVER

    class QuietLogger(Logger):  # type: ignore[misc]
        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            for handler in self.error_log.handlers:
                handler.addFilter(WithoutSecrets())

    host, port = listener.getsockname()[:2]
    options: dict[str, Any] = {
        "bind": f"fd://{listener.detach()}",
        "workers": processes,
        "worker_class": PatientWorker,
        "threads": THREADS,
        "timeout": TIMEOUT,
        "graceful_timeout": GRACE,
        "preload_app": True,  # made once, before the forks, which share its memory
        "loglevel": "warning",
        "logger_class": QuietLogger,
        "forwarded_allow_ips": "",  # nothing is believed here; `here.address` believes whom the configuration names
        "forwarder_headers": "",
        "worker_tmp_dir": _memory_folder(),  # a heartbeat on a busy disk looks like a hanging process
        "control_socket_disable": True,  # since 25 it opens one in the home by default; nobody asked for it
    }

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in options.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Flask:
            return app

        def run(self) -> None:
            if manager:
                NotifyingArbiter(self, manager, host, port).run()
            else:
                super().run()

    answer_plainly({**ALWAYS, "Cache-Control": "no-store"})
    app.extensions[SERVER] = os.getpid()
    try:
        Server().run()
    except SystemExit as end:
        return _exit_code(app, end.code if isinstance(end.code, int) else 1)
    return _exit_code(app, 0)


def _exit_code(app: Flask, code: int) -> int:
    """1 where the database was taken over by a newer version: whoever started this may start it again."""
    from webapp.db import migrations

    with app.app_context(), suppress(ConfigError):
        return code or int(migrations.current_revision() != schema.HEAD)
    return code


def _memory_folder() -> Optional[str]:
    folder = Path("/dev/shm")  # noqa: S108
    return str(folder) if folder.is_dir() and os.access(folder, os.W_OK) else None
