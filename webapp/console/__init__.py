"""The web console. Each file holds the pages of one noun; this one registers them.

Pages read through `jobs/`, `accounts/` and `insight/`, and write through their functions. `frame/gate.py` controls
access for all routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.console import (
    account,
    activity,
    api_docs,
    audit,
    batches,
    dead_letters,
    job,
    job_actions,
    jobs,
    output,
    overview,
    people,
    queues,
    sessions,
    settings,
    submit,
    tokens,
    workers,
)
from webapp.console.frame import error_pages, etag_cache, gate, templating

if TYPE_CHECKING:
    from flask import Flask

PAGES = (
    account, activity, api_docs, audit, batches, dead_letters, job, job_actions, jobs, output, overview, people, queues,
    sessions, settings, submit, tokens, workers,
)  # fmt: skip


class Console:
    """The console as `web/faces.py` describes a face."""

    name = "console"
    prefix = "/"
    check_route = staticmethod(gate.check_route)
    admit = staticmethod(gate.admit)
    refuse = staticmethod(error_pages.refuse)
    explain = staticmethod(error_pages.explain)


def init_app(app: Flask) -> None:
    """Give the application its console."""
    sessions.init_app(app)
    gate.init_app(app)
    etag_cache.init_app(app)
    templating.init_app(app)
    for module in PAGES:
        app.register_blueprint(module.pages)
