"""Serves the console with gunicorn, extended by notifications to the service manager and by a request timeout.

gunicorn waits forever for the rest of a request. It has few threads, so a few clients that stop in the middle of a
request would block the console, without any sign-in.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from flask import Flask
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from webapp.config import ConfigError
from webapp.core.storage import schema
from webapp.db import migrations
from webapp.lib.system.logs import WithoutSecrets
from webapp.lib.system.sd_notify import Manager
from webapp.web import request_counts
from webapp.web.gate import SERVER
from webapp.web.headers import ALWAYS
from webapp.web.request_counts import MOST_PROCESSES, RequestCounts
from webapp.web.request_info import CONNECTED_TO

HANG_SECONDS = 60  # a process that does not respond for so long is replaced
STOP_SECONDS = 10  # for running requests to finish
REQUEST_SECONDS = 15.0  # for a whole request to arrive, including a form of 1 MiB
IGNORED = ("TTIN", "TTOU", "USR1", "USR2", "WINCH")  # signals that mean something to gunicorn only
PROBE_SECONDS = 1.0  # for the response to the readiness probe; meanwhile the main process does nothing else


class NotifyingArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's main process. It tells the manager, if there is one, that the console is ready, alive, and stopping.

    Signals mean the same as for other commands: gunicorn would reload at HUP, and keep the port as an orphan when its
    terminal closes. TTIN, TTOU, USR1, USR2 and WINCH are ignored.
    """

    def __init__(self, app: Any, manager: Manager, host: str, port: int) -> None:
        self._manager = manager
        self._stops = False
        self._host, self._port = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104
        super().__init__(app)

    def init_signals(self) -> None:
        ignores_hang_up = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup
        super().init_signals()
        for name in IGNORED if not ignores_hang_up else (*IGNORED, "HUP"):
            signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)

    def signal(self, sig: int, frame: object) -> None:
        """INT and HUP mean the same as TERM. A second signal means: at once; a closed terminal may send HUP twice."""
        if self._stops and sig != signal.SIGHUP:
            for pid in list(self.WORKERS):  # gunicorn waits for them and handles no signals meanwhile
                self.kill_worker(pid, signal.SIGQUIT)
        self._stops = True
        super().signal(signal.SIGTERM if sig in {signal.SIGINT, signal.SIGHUP} else sig, frame)

    def murder_workers(self) -> None:
        """gunicorn's main loop calls this about once a second, so it proves that the loop is alive."""
        super().murder_workers()
        if self._manager and not self._manager.knows_ready and self._is_answering():
            self._manager.status("answers")
            self._manager.ready()
        self._manager.tick()

    def stop(self, graceful: bool = True) -> None:
        self._manager.stopping()
        super().stop(graceful)

    def _is_answering(self) -> bool:
        """False if the first process is not up yet; the next call probes again."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class TimeoutWorker(ThreadWorker):  # type: ignore[misc]
    """Frees the thread of a client that does not finish its request in time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadlines: dict[Any, float] = {}  # by connection

    def handle(self, conn: Any) -> Any:
        self._deadlines[conn] = time.monotonic() + REQUEST_SECONDS
        try:
            return super().handle(conn)
        finally:
            del self._deadlines[conn]

    def murder_keepalived(self, *arguments: Any, **options: Any) -> None:
        """gunicorn calls this about once a second to close idle connections."""
        now = time.monotonic()
        for conn, deadline in self._deadlines.copy().items():
            if now > deadline:
                # The parser sees the end of the stream. A response that is being sent is not affected.
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)
        super().murder_keepalived(*arguments, **options)


class QuietLogger(Logger):  # type: ignore[misc]
    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.addFilter(WithoutSecrets())


class _Rows:
    """Gives each process of the server its row in the counts of requests. The next process takes over a free row."""

    def __init__(self, counts: RequestCounts) -> None:
        self._counts = counts
        self._free = list(range(MOST_PROCESSES))

    def options(self) -> dict[str, Callable[[Any, Any], None]]:
        return {"pre_fork": self._before_fork, "post_fork": self._in_fork, "child_exit": self._after_exit}

    def _before_fork(self, _arbiter: object, worker: Any) -> None:
        worker.request_counts_row = self._free.pop()

    def _in_fork(self, _arbiter: object, worker: Any) -> None:
        self._counts.use_row(worker.request_counts_row)

    def _after_exit(self, _arbiter: object, worker: Any) -> None:
        self._free.append(worker.request_counts_row)


def _leave_signals(_worker: object) -> None:
    """Leave signals to the main process: Ctrl-C and a closed terminal reach all processes of the group."""
    for name in ("INT", "HUP", *IGNORED):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)


def _write_error(sock: Any, status: int, reason: str, _message: str) -> None:
    """Answer an invalid request with our headers, and without gunicorn's page, which repeats the request."""
    body = f"{reason}\n"
    headers = {
        **ALWAYS,
        "Cache-Control": "no-store",
        "Connection": "close",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
    }
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", body]
    util.write_nonblock(sock, "\r\n".join(lines).encode("latin-1"))


def serve(app: Flask, listener: socket.socket, processes: int, threads: int, manager: Manager) -> int:
    """Serve until a signal stops it; return the exit code."""
    host, port = listener.getsockname()[:2]
    options: dict[str, Any] = {
        "bind": f"fd://{listener.detach()}",
        "workers": processes,
        "worker_class": TimeoutWorker,
        "threads": threads,
        "timeout": HANG_SECONDS,
        "graceful_timeout": STOP_SECONDS,
        "post_worker_init": _leave_signals,
        "preload_app": True,  # the forks share its memory
        "loglevel": "warning",
        "logger_class": QuietLogger,
        "forwarded_allow_ips": "",  # `request_info.address` reads X-Forwarded-For from trusted proxies
        "forwarder_headers": "",
        "worker_tmp_dir": _memory_folder(),  # on a busy disk, heartbeats would be late
        "control_socket_disable": True,  # since version 25 gunicorn opens one in the home folder by default
        **_Rows(request_counts.of(app)).options(),
    }

    def serve_connected(environ: dict[str, Any], start_response: Any) -> Any:
        environ[CONNECTED_TO] = environ["gunicorn.socket"].getsockname
        return app(environ, start_response)

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in options.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Callable[[dict[str, Any], Any], Any]:
            return serve_connected

        def run(self) -> None:
            NotifyingArbiter(self, manager, host, port).run()

    util.write_error = _write_error  # gunicorn's workers call it by its module
    app.extensions[SERVER] = os.getpid()
    code = 0
    try:
        Server().run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # After an upgrade by a newer version it is not 0, so that a service manager restarts the console.
    with app.app_context(), suppress(ConfigError):
        code = code or int(migrations.current_revision() != schema.HEAD)
    return code


def _memory_folder() -> Optional[str]:
    folder = Path("/dev/shm")  # noqa: S108
    return str(folder) if folder.is_dir() and os.access(folder, os.W_OK) else None
