"""Every field of every form, filled with what attackers write, in a real Chromium: no script runs, nothing leaves, and
the browser has nothing to report against the page's policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request

from tests.console import conftest as of_console
from tests.console.browser import conftest as of_browser
from tests.factories import make_attempt, make_job, make_queue, make_worker
from tests.security.test_attacks import HOSTILE
from webapp.db.engines import writing
from webapp.db.models import Group, OutputTail
from webapp.jobs import actions
from webapp.jobs.filters import JobFilter

console = of_console.console
server, watched, open_browser = of_browser.server, of_browser.watched, of_browser.open_browser

pytestmark = [pytest.mark.browser, pytest.mark.only("sqlite")]

FORMS = ("/login", "/jobs", "/dead", "/dead/exit:1", "/job/job1", "/config/max_retries", "/account",
         "/people/new", "/tokens/new", "/audit")  # fmt: skip
ALL_AT_ONCE = " ".join(text.replace("\n", " ") for text in HOSTILE)
TYPED = (HOSTILE[2], HOSTILE[5], HOSTILE[7], ALL_AT_ONCE)
# Inputs that take text. Users cannot type text into the others (numbers, choices), but programs can send it.
FIELDS = ":is(input:not([type=hidden]):not([type=checkbox]):not([type=radio]), textarea)"
_FILL = """([node, text]) => {
    node.removeAttribute('maxlength'); node.removeAttribute('pattern');
    if (node.tagName === 'INPUT' && node.type !== 'password') node.type = 'text';
    node.value = text; node.dispatchEvent(new Event('change', {bubbles: true}));
}"""


class Watch:
    """Forbidden actions of a page."""

    def __init__(self, page: Page, server: str) -> None:
        self.bad: list[str] = []
        self._server = server
        page.on("dialog", self._dialog)
        page.on("request", self._request)
        page.on("console", lambda message: self._said(message.text))

    def _dialog(self, dialog: object) -> None:
        self.bad.append("a dialog opened: a script ran")
        dialog.dismiss()  # type: ignore[attr-defined]

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self._server, "data:")):
            self.bad.append(f"a request left: {request.url}")

    def _said(self, text: str) -> None:
        if "Content Security Policy" in text or "Content-Security-Policy" in text:
            self.bad.append(text)


@pytest.mark.parametrize("path", ["/submit", *(pytest.param(path, marks=pytest.mark.full) for path in FORMS)])
def test_no_form_field_runs_typed_script(
    open_browser: Callable[..., Page], server: str, watched: of_browser.Watched, path: str
) -> None:
    watched.expect("Failed to load resource")  # a refused form: 422, and 429 at sign-in
    watched.expect("does not conform to the required format")  # Chromium's message about an invalid time
    make_attempt(make_job("dead", id="job1"), output=b"hello\n")
    page = open_browser(None if path == "/login" else "admin")
    watch = Watch(page, server)
    page.goto(server + path)
    forms = page.locator(f"main form:has({FIELDS})").count()
    assert forms, "the page has no field"
    for form, text in [*((0, text) for text in TYPED), *((form, ALL_AT_ONCE) for form in range(1, forms))]:
        page.goto(server + path)
        fields = page.locator(f"main form:has({FIELDS})").nth(form).locator(FIELDS)
        for number in range(fields.count()):
            fields.nth(number).evaluate(_FILL.replace("([node, text])", "(node, text)"), text)
        with page.expect_navigation(wait_until="load"):
            fields.first.evaluate("node => { node.form.noValidate = true; node.form.requestSubmit(); }")
        assert page.locator("h1").count() == 1, "an answer of the console's own"
    assert watch.bad == []


@pytest.mark.full
def test_no_page_runs_script_from_jobs(open_browser: Callable[..., Page], server: str, console: object) -> None:
    for number, text in enumerate(HOSTILE):
        job = make_job("dead", id=f"hostile-{number}", command=text, last_error=text, env=None)
        make_attempt(job, output=text.encode(), error=text)
        with writing() as session:
            session.add(OutputTail(job_seq=job.seq, text=text))
            if number == 0:
                said = {"note": "\n".join(HOSTILE), "owner": HOSTILE[2], "changed_at": 1, "changed_by": HOSTILE[3]}
                session.add(Group(key="exit:1", **said))
    for text in HOSTILE:
        actions.start("requeue", JobFilter(text=text), "person:" + text)
    make_worker(host=HOSTILE[0], version=HOSTILE[1])
    make_queue("mail")
    page = open_browser("admin")
    watch = Watch(page, server)
    jobs = [f"/job/hostile-{number}" for number in range(len(HOSTILE))]
    groups = [f"/dead/exit:1?job=hostile-{number}" for number in range(len(HOSTILE))]
    acts = [f"/activity/{number}" for number in range(1, len(HOSTILE) + 1)]
    paths = [
        "/",
        "/?over=7d",
        "/jobs",
        "/dead",
        "/jobs?state=dead&q=e",
        "/workers",
        "/queues",
        "/activity",
        "/audit",
        *jobs,
    ]
    paths += groups + acts
    for path in paths:
        page.goto(server + path)
        assert page.locator("main script, main iframe, main object, main img").count() == 0, path
    assert watch.bad == []
