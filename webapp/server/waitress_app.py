"""Serves the console with waitress, on Windows."""

from __future__ import annotations

import socket
from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask

from webapp.web.request_info import CONNECTED_TO


class ConnectedTask(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[CONNECTED_TO] = self.channel.socket.getsockname
        return environ


class ConnectedChannel(HTTPChannel):  # type: ignore[misc]
    task_class = ConnectedTask


def serve(app: Flask, listener: socket.socket, threads: int) -> int:
    """Serve until the process ends; return the exit code."""
    server = create_server(
        app,
        sockets=[listener],
        threads=threads,
        ident=None,
        clear_untrusted_proxy_headers=False,  # `request_info.address` reads X-Forwarded-For from trusted proxies
    )
    server.channel_class = ConnectedChannel
    server.run()
    return 0
