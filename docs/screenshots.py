"""Takes the pictures in docs/: a scratch queue with real workers and the jobs of a small shop, in a real browser.

Run it after the look of the console has changed. It needs Chromium, and the packages that `manage.py test` installs:

    .venv/bin/python docs/screenshots.py

It does not touch your own queue. The jobs' commands are small scripts in the scratch folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, ViewportSize, sync_playwright

DOCS = Path(__file__).resolve().parent
MANAGE = DOCS.parent / "manage.py"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
DEADLINE = 60.0  # seconds for each thing that the script waits for
SIZE: ViewportSize = {"width": 1280, "height": 800}
MARGIN = 24  # pixels below the last card
USER = "ada"

SCRIPTS = {
    "send-invoice": 'echo "invoice $1: rendered, 2 pages"; echo "invoice $1: handed to the mail server"',
    "resize-photo": 'echo "$1: 4032x3024"; for w in 320 1200; do echo "$1: $w pixels wide"; done',
    "sync-stock": 'echo "$1: 214 articles read, $((${#1} * 3)) changed"',
    "publish-feed": 'echo "cannot reach feeds.example.org: the name is not known" >&2; exit 69',
    "charge-card": 'echo "card declined" >&2; exit 2',
    "reindex-search": 'for n in 1 2 3 4 5; do echo "shard $n of 40"; sleep 1; done; exec sleep 600',
    "export-orders": 'echo "orders of $1: 12,480 rows to go"; exec sleep 600',
    "import-orders": r"""
printf '\033[1mimport-orders\033[0m --since %s\n' "$2"
for page in 1 2 3; do printf '\033[32mok\033[0m    page %s  250 orders\n' "$page"; done
printf '\033[33mslow\033[0m  page 4  250 orders, after 9.8 s\n'
printf '\033[31merror\033[0m page 5  HTTP 503\n'
exit 75
""",
}

Job = dict[str, Any]
DONE: list[Job] = [
    *({"command": f"send-invoice {number}", "queue": "mail"} for number in range(20311, 20329)),
    *({"command": f"resize-photo products/{number}.jpg", "queue": "media"} for number in range(871, 883)),
    *({"command": f"sync-stock warehouse-{place}"} for place in ("north", "south", "harbour")),
]
DEAD: list[Job] = [
    {"id": "feed-2026-w47", "command": "publish-feed --channel marketplace --week 47", "max_retries": 0},
    *(
        {"id": f"charge-{number}", "command": f"charge-card order-{number}", "queue": "payments", "max_retries": 0}
        for number in range(10427, 10432)
    ),
]
FAILING: list[Job] = [
    {"id": "import-2026-11-24", "command": "import-orders --since yesterday", "queue": "imports", "max_retries": 3},
    {"id": "backup-nightly", "command": "tar czf backups/shop.tar.gz /srv/shop/uploads", "max_retries": 5},
]
SHOWN = FAILING[0]["id"]  # the job on the second picture
WAITING: list[Job] = [
    {"id": "digest-weekly", "command": "send-digest --list customers", "queue": "mail", "delay": 5 * 3600},
    {"id": "prices-spring", "command": "set-prices --from spring.csv", "run_at": "2099-03-01T06:00:00Z"},
]
CHAIN: list[Job] = [
    {"id": "fetch-prices", "command": "sync-stock prices"},
    {"id": "build-feed", "command": "export-orders feed", "after": ["fetch-prices"], "priority": 10},
    {"id": "check-feed", "command": "sync-stock feed", "after": ["fetch-prices"]},
    {"id": "upload-feed", "command": "publish-feed --channel shop", "after": ["build-feed", "check-feed"]},
]
LONG: list[Job] = [
    {"id": "reindex", "command": "reindex-search --all", "priority": 10},
]
BEHIND: list[Job] = [{"command": f"resize-photo products/{number}.jpg", "queue": "media"} for number in range(883, 888)]


class Queue:
    """A queue in a scratch folder, with a console and workers."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        tools = scratch / "bin"
        tools.mkdir()
        for name, script in SCRIPTS.items():
            (tools / name).write_text(f"#!/bin/sh\n{script}\n")
            (tools / name).chmod(0o755)
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name == "QUEUECTL_VENV" or not name.startswith("QUEUECTL_")
            },
            "QUEUECTL_HOME": str(scratch / "queue"),
            "QUEUECTL_DATABASE_URL": "",  # overrides a .env that names the real one
            "QUEUECTL_PUBLIC_URL": "",
            "LOGNAME": USER,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        }

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run `up` and yield the set-up link."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = self._scratch / "up.log"
        with log.open("wb") as output:
            command = [sys.executable, str(MANAGE), "up", "--port", str(port)]
            process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output, cwd=self._scratch)
        try:
            wait_for("the set-up link", lambda: "/setup/" in log.read_text() and self.status()["workers"])
            found = re.search(r"http://\S+/setup/\S+", log.read_text())
            assert found  # noqa: S101 - the wait above found it
            yield found.group()
        finally:
            process.terminate()
            process.wait(DEADLINE)

    def manage(self, *arguments: str, given: str = "") -> str:
        """Run a command of manage.py and return its output. Exits with its error message if it fails."""
        answer = subprocess.run(
            [sys.executable, str(MANAGE), *arguments],
            env=self._environment, cwd=self._scratch, input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {answer.stderr}")
        return answer.stdout

    def enqueue(self, jobs: Sequence[Job]) -> None:
        self.manage("enqueue", "-", given="".join(json.dumps(job) + "\n" for job in jobs))

    def status(self) -> Any:
        return json.loads(self.manage("status", "--json"))

    def states(self) -> Any:
        return self.status()["states"]

    def failed(self, job: str) -> int:
        """Return how many attempts of a job have failed."""
        history = json.loads(self.manage("show", job, "--json"))["attempt_history"]
        return sum(attempt["state"] == "failed" for attempt in history)

    def fill(self) -> None:
        """Create jobs in each state, two of them running."""
        self.manage("config", "set", "shutdown_grace", "0")
        self.manage("config", "set", "backoff_base", "6")  # the second wait, 36 s, leaves time for the pictures
        self.manage("config", "set", "backoff_jitter", "0")
        self.enqueue(DONE + WAITING)
        wait_for("the short jobs", lambda: self.states()["completed"] == len(DONE))
        self.enqueue([{"id": "newsletter-test", "command": "send-digest --list test", "queue": "mail", "delay": 60}])
        self.manage("cancel", "newsletter-test")
        self.enqueue(DEAD + FAILING)
        wait_for("the dead letters", lambda: self.states()["dead"] == len(DEAD))
        wait_for("a second failure", lambda: min(self.failed(job["id"]) for job in FAILING) == 2)
        self.enqueue([*CHAIN, *LONG])
        wait_for("the long jobs", lambda: self.states()["processing"] == len(LONG) + 1)
        self.enqueue(BEHIND)


def wait_for(what: str, happened: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE
    while not happened():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not there after {DEADLINE:.0f} seconds")
        time.sleep(0.2)


@contextmanager
def filled() -> Iterator[tuple[Queue, str]]:
    """Yield a running queue with jobs in each state, and its set-up link."""
    with tempfile.TemporaryDirectory(prefix="queuectl-pictures-") as folder:
        queue = Queue(Path(folder))
        with queue.running() as link:
            queue.fill()
            yield queue, link


def browser(playwright: Playwright) -> Browser:
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("Chromium is not installed (Debian: apt install chromium)")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])


def sign_in(context: BrowserContext, link: str) -> Page:
    """Create the first admin account in the browser, and dismiss the welcome message."""
    page = context.new_page()
    page.goto(link)
    page.get_by_label("Name").fill(USER)
    page.get_by_label("Password", exact=True).fill("a few words are easier")
    page.get_by_label("Repeat password").fill("a few words are easier")
    page.get_by_role("button", name="Create admin account").click()
    page.get_by_role("button", name="Dismiss").click()
    return page


def picture(page: Page, path: Path) -> None:
    """Save the page from its top to a margin below its last card."""
    boxes = [card.bounding_box() for card in page.locator("main .card").all()]
    end = max(box["y"] + box["height"] for box in boxes if box)
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": SIZE["width"], "height": end + MARGIN})


def main() -> None:
    with filled() as (queue, link), sync_playwright() as playwright, browser(playwright) as chromium:
        context = chromium.new_context(viewport=SIZE, color_scheme="light", base_url=link.rsplit("/setup/", 1)[0])
        page = sign_in(context, link)
        page.goto("/dead")
        group = page.get_by_role("link", name="card declined").first.get_attribute("href")
        pages = {"overview": "/", "job": f"/job/{SHOWN}", "group": str(group), "chain": f"/job/{CHAIN[-1]['id']}"}
        for name, path in {**pages, "jobs": "/jobs?q=feed"}.items():
            page.goto(path)
            picture(page, DOCS / f"{name}.png")
        if queue.states()["failed"] != len(FAILING):
            raise SystemExit("A retry began before the last picture: this machine was too slow. Run the script again.")


if __name__ == "__main__":
    main()
