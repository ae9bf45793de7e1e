"""Requests add up over all processes of the server, and over one that is replaced."""

from __future__ import annotations

import os
import re
import signal
from typing import Any, Callable
from urllib.request import urlopen

import psutil

from tests.commands import conftest as commands
from tests.commands.conftest import Processes
from tests.deadline import DEADLINE
from tests.web.test_metrics import samples
from webapp.config import Config

processes = commands.processes


def test_all_processes_count_together_and_nothing_is_lost_with_one_of_them(
    sqlite_config: Config, processes: Processes, eventually: Callable[..., Any]
) -> None:
    console = processes.start("web", "--port", "0", "--workers", "2")
    assert console.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", console.stdout.readline())
    assert found is not None

    def counted() -> float:
        answer = urlopen(f"{found[0]}/metrics", timeout=DEADLINE).read().decode()
        return samples(answer)['queuectl_http_requests_total{status="2xx"}']

    def ask(number: int) -> None:
        for _ in range(number):
            assert urlopen(f"{found[0]}/static/app.js", timeout=DEADLINE).status == 200

    ask(20)
    assert counted() == 20
    first, second = psutil.Process(console.pid).children()
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: {one.pid for one in psutil.Process(console.pid).children()} - {first.pid, second.pid})
    ask(20)
    assert counted() == 41
