"""The console: the HTML face of the queue. A file a noun; this one puts the house together.

Every page answers one question. What it shows comes from `queries` and `story`, what it does goes through
`operations`; nothing here writes to a table itself. Who may do what is decided in `gate.py`, for all routes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.console.account import pages as account_pages
from webapp.console.activity import pages as activity_pages
from webapp.console.api_docs import pages as api_docs_pages
from webapp.console.audit import pages as audit_pages
from webapp.console.batches import pages as batches_pages
from webapp.console.dead_letters import pages as dead_letters_pages
from webapp.console.error_pages import init_app as init_errors
from webapp.console.etag_cache import init_app as init_unchanged
from webapp.console.gate import init_app as init_gate
from webapp.console.job import pages as job_pages
from webapp.console.job_actions import pages as acts_pages
from webapp.console.jobs import pages as jobs_pages
from webapp.console.output import pages as output_pages
from webapp.console.overview import pages as overview_pages
from webapp.console.people import pages as people_pages
from webapp.console.queues import pages as queues_pages
from webapp.console.sessions import init_app as init_sessions
from webapp.console.sessions import pages as sessions_pages
from webapp.console.settings import pages as config_pages
from webapp.console.submit import pages as submit_pages
from webapp.console.templating import init_app as init_templating
from webapp.console.tokens import pages as tokens_pages
from webapp.console.workers import pages as workers_pages
from webapp.web.compression import init_app as init_compression
from webapp.web.headers import init_app as init_headers
from webapp.web.health import pages as health_pages
from webapp.web.static import init_app as init_static

if TYPE_CHECKING:
    from flask import Flask

BODY_LIMIT = 1024 * 1024  # bytes: a command and an environment of 64 KiB each, percent-encoded, and some room
PAGES = (
    account_pages,
    activity_pages,
    acts_pages,
    api_docs_pages,
    audit_pages,
    batches_pages,
    config_pages,
    dead_letters_pages,
    health_pages,
    job_pages,
    jobs_pages,
    output_pages,
    overview_pages,
    people_pages,
    queues_pages,
    sessions_pages,
    submit_pages,
    tokens_pages,
    workers_pages,
)


def init_app(app: Flask) -> None:
    """Give the application its console. The gate comes first: a request that it refuses reaches nothing else."""
    app.config.update(MAX_CONTENT_LENGTH=BODY_LIMIT, MAX_FORM_MEMORY_SIZE=BODY_LIMIT)
    init_compression(app)
    init_headers(app)
    init_sessions(app)
    init_gate(app)
    init_unchanged(app)
    init_templating(app)
    init_static(app)
    init_errors(app)
    for pages in PAGES:
        app.register_blueprint(pages)
