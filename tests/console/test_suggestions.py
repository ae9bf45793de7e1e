"""Completion in the search box."""

from __future__ import annotations

import html
import re

import pytest

from tests.console.conftest import Browser
from tests.factories import make_job, make_queue, make_worker


def fills(browser: Browser, typed: str) -> list[str]:
    text = browser.get("/jobs/suggestions", query_string={"q": typed}, partial=True).get_data(as_text=True)
    return [html.unescape(one) for one in re.findall(r'data-fill="([^"]*)"', text)]


EXPECTED: list[tuple[str, list[str]]] = [
    ("s", ["state:", "since:", "schedule:"]),
    ("a -E", ["a -exit:", "a -error:"]),
    ("fail", ["failed-attempt:"]),
    ("x state:c", ["x state:completed ", "x state:cancelled "]),
    ("-queue:mA", ["-queue:mail "]),
    ("worker:w", ["worker:w1 "]),
    ("requires:g", ["requires:gpu "]),
    ("on:y", ["on:yesterday "]),
    ("since:", ["since:30min ", "since:2h ", "since:24h ", "since:7d ", "since:today ", "since:yesterday "]),
    ("by:the", ["by:the-admin "]),
    ("exit:12", ["exit:126 ", "exit:127 "]),
    *(
        (typed, [])
        for typed in ("", "state:dead", "state:dead ", "https://x", '"st', "redis:7", "error:x", "worker:\0x")
    ),
]


@pytest.mark.postgresql
def test_the_last_word_is_completed(admin: Browser) -> None:
    make_queue("mail")
    make_queue("other")
    make_worker(id="w1")
    make_job(requires="gpu,ssd")
    assert [(typed, fills(admin, typed)) for typed, _ in EXPECTED] == EXPECTED


def test_names_that_a_user_may_not_list_are_not_suggested(viewer: Browser) -> None:
    assert fills(viewer, "by:") == []
