"""The console after the queue has moved: it shows the queue, names the new address, and refuses writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from tests.admin.move.moves import go
from tests.console.conftest import Browser
from tests.console.test_submit import submit
from tests.factories import make_job
from webapp.config import Config


@pytest.fixture
def new_address(admin: Browser, console: Flask, home: Path, tmp_path: Path) -> str:
    """The address that the console's queue has moved to. The admin signed in before the move."""
    make_job(id="old")
    target = Config(home, f"sqlite:///{tmp_path}/moved.db", None)
    go(target)
    return str(target.database_url)


def test_pages_show_the_old_jobs_and_the_new_address(new_address: str, admin: Browser) -> None:
    for path in ("/", "/jobs", "/workers", "/job/old"):
        answer = admin.get(path)
        assert answer.status_code == 200
        text = answer.get_data(as_text=True)
        assert f"This queue was moved to {new_address} on " in text
        assert "Start one:" not in text or path == "/"


def test_a_form_is_refused_with_the_new_address(new_address: str, admin: Browser) -> None:
    answer = submit(admin)
    assert answer.status_code == 503
    text = answer.get_data(as_text=True)
    assert "The queue has moved" in text
    assert f"This queue was moved to {new_address} on " in text
    assert "Nothing changed." in text


def test_a_button_is_refused_with_a_toast(new_address: str, admin: Browser) -> None:
    answer = admin.post("/job/old/cancel", partial=True)
    assert answer.status_code == 503
    assert f"This queue was moved to {new_address} on " in answer.get_data(as_text=True)


def test_sign_in_is_refused_with_the_new_address(new_address: str, anonymous: Browser) -> None:
    anonymous.get("/login")
    answer = anonymous.post("/login", {"name": "ana", "password": "a horse, a battery"})
    assert answer.status_code == 503
    assert new_address in answer.get_data(as_text=True)


def test_the_readiness_check_fails(new_address: str, anonymous: Browser) -> None:
    answer = anonymous.get("/readyz")
    assert answer.status_code == 503
    assert answer.get_data(as_text=True) == "database: the queue has moved to another one, or is moving\n"
