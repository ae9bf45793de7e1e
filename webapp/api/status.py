"""The queue at a glance, for programs: the same as `manage.py status --json`."""

from __future__ import annotations

from typing import Any

from webapp.api.routes import Noun
from webapp.api.schemas import Status
from webapp.api.scopes import scope
from webapp.db.engines import reading
from webapp.web import serializers

routes = Noun("Status", "The queue at a glance.")


@routes.on("GET", "/status", {200: Status})
@scope("read")
def get_status() -> Any:
    """How many jobs are in each state, which workers run, and what waits."""
    with reading() as session:
        return serializers.status(session)
