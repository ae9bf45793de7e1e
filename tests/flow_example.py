"""A queue in the middle of its work, with each part of the flow of jobs; and checks that the work goes on elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import select, text

from tests.worker.test_dependencies import Player, states
from webapp.core import job_spec
from webapp.core.flow import batch_callbacks
from webapp.core.flow.batches import read
from webapp.core.job_spec import KeyTaken
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Job
from webapp.jobs import actions, queue_actions
from webapp.jobs.flow import limits
from webapp.lib import clock

ANA = "person:ana"
UNIQUE = {"command": "true", "unique": "k"}


def submit() -> None:
    """Edges, a batch with a callback, limits of keys and of a queue, a rate, a unique key, retry rules."""
    limits.set_limit("db", 1, None, None, ANA)
    limits.set_limit("queue:mail", 1, None, None, ANA)
    limits.set_limit("often", None, "1/h", None, ANA)
    with writing() as session:
        session.execute(text("INSERT INTO limit_starts VALUES ('often', 1, :now)"), {"now": clock.now()})
    _enqueue(
        {"id": "parent", "unique": "k", "queue": "mail"},
        {"id": "child", "after": ["parent"]},
        {"id": "grandchild", "after": ["child"]},
        batch={"name": "n", "on_done": {"command": "./tell.sh"}},
    )
    _enqueue(
        {"id": "mail", "queue": "mail"},
        *({"id": one, "limits": "db"} for one in ("held-1", "held-2")),
        {"id": "rated", "limits": "often"},
        {"id": "own-rules", "retry": "any: bury"},
    )
    queue_actions.set_retry_rules("mail", queue_actions.read_rules("any: bury"), ANA)


def _enqueue(*jobs: Mapping[str, object], batch: object = None) -> None:
    specs = [job_spec.parse({"command": "true", **job}) for job in jobs]
    actions.enqueue(specs, ANA, batch=read(batch) if batch else None)


def goes_on(connection: Connection) -> None:
    """Play a worker to the end of all jobs that may start."""
    with pytest.raises(KeyTaken, match="held by parent"):
        _enqueue(UNIQUE)
    player = Player(connection, slots=8)
    player.ends = {"mail": "failed", "own-rules": "failed"}
    player.turn()
    assert sorted(player.started) == ["held-1", "own-rules", "parent"]
    player.run()
    assert states() == {
        **dict.fromkeys(["parent", "child", "grandchild", "held-1", "held-2"], "completed"),
        **dict.fromkeys(["mail", "own-rules"], "dead"),  # at their first failure
        "rated": "pending",
    }
    _enqueue(UNIQUE)
    batch_callbacks.decide(connection)
    with reading() as session:
        assert session.scalars(select(Job.command).where(Job.created_by == "batch:n")).all() == ["./tell.sh"]
