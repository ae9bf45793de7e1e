"""Routes by path alone, below the path of the public URL (such as `/queue`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from flask import Flask
from werkzeug.routing import Map

from webapp.config import Config

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def init_app(app: Flask) -> None:
    # Routes do not depend on the Host: the gate checks it, and health checks are answered under any.
    app.config["SERVER_NAME"] = "localhost"
    # `//` in a path is an error: a redirect by werkzeug would name this host.
    app.url_map.merge_slashes = False
    prefix = cast(Config, app.extensions["queuectl_config"]).public_path
    app.wsgi_app = PathPrefix(app.wsgi_app, prefix, app.url_map)  # type: ignore[method-assign]


class PathPrefix:
    """Moves the prefix from PATH_INFO to SCRIPT_NAME, so that every URL of a response begins with it.

    The prefix is from the configuration, never from a header. Requests without it are served as well: from proxies that
    remove it, and from programs on this machine, such as health checks.
    """

    def __init__(self, inner: WSGIApplication, prefix: str, routes: Map) -> None:
        self._inner = inner
        self._prefix = prefix
        self._routes = routes.bind("localhost")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"] or "/"
        if self._prefix and (path + "/").startswith(self._prefix + "/"):
            path = self._removed(path, environ["REQUEST_METHOD"])
        environ.update(SCRIPT_NAME=self._prefix, PATH_INFO=path)
        return self._inner(environ, start_response)

    def _removed(self, path: str, method: str) -> str:
        """The path without prefix, or as it is if only that has a route: then the proxy has removed the prefix already,
        for example from `/queue/queue/mail/pause`."""
        inside = path[len(self._prefix) :] or "/"
        return path if not self._routes.test(inside, method) and self._routes.test(path, method) else inside
