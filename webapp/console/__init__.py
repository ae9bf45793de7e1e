"""The console: the HTML face of the queue. A file a noun; this one puts the house together.

Every page answers one question. What it shows comes from `queries` and `story`, what it does goes through
`operations`; nothing here writes to a table itself. Who may do what is decided in `gate.py`, for all routes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.console import (
    account,
    acts,
    config,
    dead_letters,
    errors,
    gate,
    headers,
    health,
    job,
    jobs,
    output,
    overview,
    queues,
    sessions,
    static,
    submit,
    templating,
    workers,
)

if TYPE_CHECKING:
    from flask import Flask

BODY_LIMIT = 1024 * 1024  # bytes: a command and an environment of 64 KiB each, percent-encoded, and some room
PAGES = (
    account.pages,
    acts.pages,
    config.pages,
    dead_letters.pages,
    health.pages,
    job.pages,
    jobs.pages,
    output.pages,
    overview.pages,
    queues.pages,
    sessions.pages,
    submit.pages,
    workers.pages,
)


def init_app(app: Flask) -> None:
    """Give the application its console. The gate comes first: a request that it refuses reaches nothing else."""
    app.config.update(MAX_CONTENT_LENGTH=BODY_LIMIT, MAX_FORM_MEMORY_SIZE=BODY_LIMIT)
    headers.init_app(app)
    sessions.init_app(app)
    gate.init_app(app)
    templating.init_app(app)
    static.init_app(app)
    errors.init_app(app)
    for pages in PAGES:
        app.register_blueprint(pages)
    gate.check_routes(app)
