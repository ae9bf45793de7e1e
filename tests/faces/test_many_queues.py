"""10,000 queues: each page and command needs as many statements as with three, and shows a limited part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from sqlalchemy import Engine, event, text

from tests.api.conftest import make_program
from tests.commands.conftest import Cli
from tests.console.conftest import Browser
from tests.factories import make_job, make_queue, make_user, make_worker
from webapp.accounts import sessions
from webapp.db.engines import is_sqlite, reading, writing
from webapp.jobs import queries

MANY = 10_000
MORE = 6  # statements: a list is not empty any more, its jobs may have limits, or a session is marked as used
MOST_BYTES = 250_000  # of a page; 50 queues are 60 kB
NUMBERS = {
    True: "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000) SELECT n FROM n",
    False: "SELECT n FROM generate_series(1, 10000) AS numbers (n)",
}
JOBS = """
INSERT INTO jobs (id, command, queue, requires, priority, state, run_at, created_at, created_by, changed_at, attempts,
                  failures, losses, lone_losses)
SELECT 'job' || n, 'true', 'customer-' || n, '', 0, 'pending', n, n, 'person:ana', n, 0, 0, 0, 0
FROM ({numbers}) AS numbers
"""


def make_queues(*, with_jobs: bool) -> None:
    numbers = NUMBERS[is_sqlite()]
    with writing() as session:
        session.execute(text(f"INSERT INTO queues (name) SELECT 'customer-' || n FROM ({numbers}) AS numbers"))
        if with_jobs:
            session.execute(text(JOBS.format(numbers=numbers)))


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements of all engines."""
    statements: list[str] = []

    def see(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", see)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", see)


@pytest.fixture
def browser(whole: Flask) -> Browser:
    client = whole.test_client()
    session_id = sessions.begin(make_user("ben", "operator"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"] = session_id
    return Browser(client)


PAGES = [
    "/",
    "/queues",
    "/queues?show=busy",
    "/queues?show=paused",
    "/queues?q=customer",
    "/queues?after=customer-5",
    "/queues/names?queue=customer",
    "/jobs",
    "/jobs?state=pending",
    "/jobs?state=pending&queue=customer-7",
    "/submit",
]


@pytest.mark.postgresql
@pytest.mark.parametrize("with_jobs", [False, True])
def test_pages_need_as_many_statements_as_with_three_queues(whole: Flask, browser: Browser, with_jobs: bool) -> None:
    program = make_program(whole, "read")
    for name in ("a", "b"):
        make_job(queue=name)
        make_queue(name + "-paused", paused_by="person:ana")
    make_worker(id="w1", queues='["a"]')

    def read_all() -> dict[str, tuple[int, int]]:
        found = {}
        for url in PAGES:
            with counted() as statements:
                response = browser.get(url)
            assert response.status_code == 200
            found[url] = len(statements), len(response.get_data())
        for url in ("/queues", "/queues?limit=20", "/status"):
            with counted() as statements:
                response = program("GET", url)
            assert response.status_code == 200
            found["api" + url] = len(statements), len(response.get_data())
        return found

    few = read_all()
    make_queues(with_jobs=with_jobs)
    many = read_all()
    for url, (number, size) in many.items():
        assert number <= few[url][0] + MORE, url
        assert size <= MOST_BYTES, url


@pytest.mark.postgresql
@pytest.mark.parametrize("with_jobs", [False, True])
def test_commands_need_as_many_statements_as_with_three_queues(whole: Flask, cli: Cli, with_jobs: bool) -> None:
    first = ["queue", "list", "--json", "--limit", "100"]
    commands = (["queue", "list"], first, ["status"], ["status", "--json"], ["list"], ["doctor"])

    def run_all() -> list[int]:
        numbers = []
        for command in commands:
            with counted() as statements:
                assert len(cli(*command).out) <= MOST_BYTES
            numbers.append(len(statements))
        return numbers

    few = run_all()
    make_queues(with_jobs=with_jobs)
    assert all(number <= before + MORE for number, before in zip(run_all(), few))
    listed = cli("queue", "list")
    assert len(listed.lines) == 101
    assert "9,901 more. Use --limit or --like to see them." in listed.err
    assert len(cli("queue", "list", "--like", "customer-9", "--json").json) == 1111
    assert [one["name"] for one in cli("queue", "list", "--like", "MER-777", "--limit", "2", "--json").json] == [
        "customer-777",
        "customer-7770",
    ]


@pytest.mark.postgresql
def test_the_api_reads_all_queues_by_page_in_both_directions(whole: Flask) -> None:
    make_queues(with_jobs=False)
    program = make_program(whole, "read")
    first = program("GET", "/queues?limit=300&like=customer-99")
    names, cursor = [one["name"] for one in first.get_json()["queues"]], first.get_json()["next"]
    assert (len(names), cursor, names[0]) == (111, None, "customer-99")
    pages: list[list[str]] = []
    cursor, url = None, "/queues?limit=400&like=customer-9"
    while True:
        page = program("GET", url + (f"&cursor={cursor}" if cursor else "")).get_json()
        pages.append([one["name"] for one in page["queues"]])
        if page["next"] is None:
            break
        cursor = page["next"]
    assert [len(page) for page in pages] == [400, 400, 311]
    assert len({name for page in pages for name in page}) == 1111
    back = program("GET", f"{url}&cursor={page['previous']}").get_json()
    assert [one["name"] for one in back["queues"]] == pages[1]
    assert program("GET", "/queues?cursor=x").status_code == 422
    of_jobs = program("GET", "/jobs?cursor=" + (cursor or ""))
    assert of_jobs.status_code == 422


def test_the_queues_page_pages_in_both_directions_and_keeps_its_search(browser: Browser) -> None:
    make_queues(with_jobs=False)

    def shown(url: str) -> tuple[list[str], dict[str, str]]:
        html = browser.get(url).get_data(as_text=True)
        links = re.findall(r'<a class="button" rel="(prev|next)" href="([^"]+)"', html)
        return re.findall(r'id="queue-([\w-]+)"', html), {rel: to.replace("&amp;", "&") for rel, to in links}

    names, links = shown("/queues?q=customer-99")
    assert (len(names), set(links)) == (50, {"next"})
    second, links = shown(links["next"])
    third, last = shown(links["next"])
    assert (len(second), len(third), set(last)) == (50, 11, {"prev"})
    assert len({*names, *second, *third}) == 111
    assert shown(links["prev"])[0] == names
    html = browser.get("/queues?q=nothing-like-it").get_data(as_text=True)
    assert "No matches" in html
    assert browser.get("/queues?show=all").status_code == 404


def test_the_queue_field_of_the_job_list_is_a_text_field_with_many_queues(browser: Browser) -> None:
    make_job(queue="mail")
    assert '<select name="queue"' in browser.get("/jobs").get_data(as_text=True)
    make_queues(with_jobs=False)
    html = browser.get("/jobs?queue=mail").get_data(as_text=True)
    assert '<select name="queue"' not in html
    assert re.search(r'<input name="queue" value="mail"[^>]*list="queue-names"', html)
    assert html.count("<option") < 60
    suggested = browser.get("/queues/names?queue=mer-4242").get_data(as_text=True)
    assert suggested.strip() == '<option value="customer-4242">'


# --- one case of removal per face ------------------------------------------------------------------------------------


def test_a_queue_is_removed_in_the_console_after_confirmation(browser: Browser) -> None:
    make_job("completed", queue="mail")
    make_job(queue="busy")
    html = browser.get("/queues").get_data(as_text=True)
    assert "/queue/mail/remove" in html
    assert "/queue/busy/remove" not in html
    assert "/queue/default/remove" not in html
    assert "Remove queue mail?" in browser.post("/queue/mail/remove", partial=True).get_data(as_text=True)
    done = browser.post("/queue/mail/remove", {"confirmed": "1"}, partial=True)
    assert "Queue mail removed." in done.get_data(as_text=True)
    refused = browser.post("/queue/busy/remove", {"confirmed": "1"}, partial=True)
    assert refused.status_code == 409
    assert "Queue busy cannot be removed: it has 1 pending job." in refused.get_data(as_text=True)
    assert 'id="queue-mail"' not in browser.get("/queues").get_data(as_text=True)
    assert browser.get("/jobs?queue=mail").status_code == 200


def test_a_queue_is_removed_by_the_api_with_the_scope_of_a_pause(whole: Flask) -> None:
    make_job("dead", id="old", queue="mail")
    make_job(queue="busy")
    assert make_program(whole, "submit")("DELETE", "/queues/mail").status_code == 403
    program = make_program(whole, "operate")
    assert program("DELETE", "/queues/mail").status_code == 204
    assert program("DELETE", "/queues/mail").status_code == 404
    refused = program("DELETE", "/queues/busy")
    assert refused.status_code == 409
    assert "it has 1 pending job" in refused.get_json()["detail"]
    assert program("GET", "/jobs/old").get_json()["queue"] == "mail"


def test_a_queue_is_removed_by_a_command(whole: Flask, cli: Cli) -> None:
    make_job("dead", id="old", queue="mail")
    assert cli("queue", "remove", "mail").out == "mail: removed\n"
    refused = cli("queue", "remove", "default")
    assert (refused.code, refused.out) == (5, "")
    assert "queue default cannot be removed" in refused.err
    assert "mail" in cli("show", "old").out
    assert cli("list", "--queue", "mail", "--json").json[0]["id"] == "old"


@pytest.mark.postgresql
def test_queues_that_need_attention_are_found_among_many(whole: Flask, browser: Browser) -> None:
    make_queues(with_jobs=True)
    make_job(queue="zoo", requires="gpu")
    make_worker(id="w1", queues=json.dumps(["zoo", "customer-1"]))
    html = browser.get("/").get_data(as_text=True)
    assert "No worker serves queues" in html
    assert "1 job needs labels that no worker has" in html
    with reading() as session:
        assert queries.oldest_pending(session) == 1
