"""The web console. Each file holds the pages of one noun; this one registers them.

Pages read through `queries` and `story`, and write through `operations`. `gate.py` controls access for all routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webapp.console.account import pages as account_pages
from webapp.console.activity import pages as activity_pages
from webapp.console.api_docs import pages as api_docs_pages
from webapp.console.audit import pages as audit_pages
from webapp.console.batches import pages as batches_pages
from webapp.console.dead_letters import pages as dead_letters_pages
from webapp.console.frame import error_pages, gate
from webapp.console.frame.etag_cache import init_app as init_unchanged
from webapp.console.frame.templating import init_app as init_templating
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
from webapp.console.tokens import pages as tokens_pages
from webapp.console.workers import pages as workers_pages

if TYPE_CHECKING:
    from flask import Flask

PAGES = (
    account_pages,
    activity_pages,
    acts_pages,
    api_docs_pages,
    audit_pages,
    batches_pages,
    config_pages,
    dead_letters_pages,
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
    init_sessions(app)
    gate.init_app(app)
    init_unchanged(app)
    init_templating(app)
    for pages in PAGES:
        app.register_blueprint(pages)
