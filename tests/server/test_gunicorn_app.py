"""The undocumented methods of gunicorn that the console overrides. pyproject.toml caps its version."""

from __future__ import annotations

import inspect
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn does not run on Windows", allow_module_level=True)

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from webapp.server.gunicorn_app import NotifyingArbiter, TimeoutWorker

OVERRIDDEN = [
    (NotifyingArbiter, Arbiter, "murder_workers", "run"),
    (NotifyingArbiter, Arbiter, "stop", "halt"),
    (NotifyingArbiter, Arbiter, "init_signals", "start"),
    (NotifyingArbiter, Arbiter, "signal", "init_signals"),
    (TimeoutWorker, ThreadWorker, "handle", "enqueue_req"),
    (TimeoutWorker, ThreadWorker, "murder_keepalived", "run"),
]


@pytest.mark.parametrize(("ours", "theirs", "name", "caller"), OVERRIDDEN)
def test_gunicorn_still_calls_the_method(ours: type, theirs: type, name: str, caller: str) -> None:
    gone = f"gunicorn's {theirs.__name__} has no method {name} any more, or {caller} does not call it"
    assert name in vars(theirs), gone
    assert f"self.{name}" in inspect.getsource(getattr(theirs, caller, object)), gone
    assert name in vars(ours)


def test_the_list_is_complete() -> None:
    for ours, theirs in {(ours, theirs) for ours, theirs, _, _ in OVERRIDDEN}:
        known = {name for one, _, name, _ in OVERRIDDEN if one is ours}
        assert {name for name in vars(ours) if not name.startswith("__") and hasattr(theirs, name)} == known


def test_gunicorn_still_answers_unreadable_requests_with_write_error() -> None:
    assert hasattr(util, "write_error"), "gunicorn.util has no function write_error any more"
    from gunicorn.workers import base

    assert "util.write_error(" in inspect.getsource(base.Worker.handle_error)
    assert list(inspect.signature(util.write_error).parameters) == ["sock", "status_int", "reason", "mesg"]
