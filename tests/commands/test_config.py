"""`config`: read and change settings; bounds, history and authors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_job, make_queue
from webapp.config import CHECKOUT
from webapp.core.settings import DEFINITIONS
from webapp.lib import clock

pytestmark = pytest.mark.every_python


def test_get_prints_the_plain_value(app: Flask, cli: Cli) -> None:
    assert cli("config", "get", "backoff_base").out == "2\n"
    result = cli("config", "set", "backoff_base", "3")
    assert (result.code, result.err) == (0, "")
    assert cli("config", "get", "backoff_base").out == "3\n"
    assert cli("config", "get", "backoff_base", "--json").json["value"] == 3


def test_unset_restores_the_default(app: Flask, cli: Cli) -> None:
    cli("config", "set", "max_retries", "9")
    assert cli("config", "unset", "max_retries").code == 0
    assert cli("config", "get", "max_retries").out == "3\n"


def test_the_list_has_every_setting_with_its_bounds_and_last_author(app: Flask, cli: Cli) -> None:
    cli("config", "set", "backoff_base", "2.5")
    rows = {row.split()[0]: row for row in cli("config", "list").lines[1:]}
    assert set(rows) == set(DEFINITIONS)
    assert rows["backoff_base"].split()[1:3] == ["2.5", "2"]
    assert "a number from 1 to 100" in rows["backoff_base"]
    assert rows["backoff_base"].endswith("by person:ana")
    assert "person" not in rows["max_retries"]
    listed = {one["key"]: one for one in cli("config", "list", "--json").json}
    assert listed["backoff_base"]["value"] == 2.5
    assert listed["backoff_base"]["changed_by"] == "person:ana"


def test_seconds_can_have_a_unit(app: Flask, cli: Cli) -> None:
    assert cli("config", "set", "job_timeout", "10m").out == "job_timeout = 600\n"
    assert "'soon' is not allowed" in cli("config", "set", "job_timeout", "soon").err
    assert cli("config", "set", "keep_dead", "10m").code == 1


def test_a_long_history_shows_its_length(app: Flask, cli: Cli) -> None:
    for value in range(1, 4):
        cli("config", "set", "max_retries", str(value + 3))
    shown = cli("config", "history", "max_retries", "--limit", "2")
    assert (len(shown.lines), shown.err) == (3, "Only the first 2 are shown, of 3. Use --limit to see more.\n")
    assert len(cli("config", "history", "max_retries", "--json").json) == 3


@pytest.mark.parametrize("value", ["-1", "1001", "2.5", "many", ""])
def test_a_value_out_of_bounds_is_refused_with_the_bounds(app: Flask, cli: Cli, value: str) -> None:
    result = cli("config", "set", "max_retries", value)
    assert (result.code, result.out) == (1, "")
    assert "expected a whole number from 0 to 1000" in result.err
    assert cli("config", "get", "max_retries").out == "3\n"


@pytest.mark.parametrize("argv", [["get", "backof_base"], ["set", "backof_base", "3"], ["unset", "backof_base"]])
def test_a_misspelt_setting_is_one_line_that_names_the_nearest(app: Flask, cli: Cli, argv: list[str]) -> None:
    result = cli("config", *argv)
    assert (result.code, result.out) == (4, "")
    assert "Did you mean backoff_base?" in result.err


def test_history_shows_authors_and_values_newest_first(app: Flask, cli: Cli) -> None:
    assert "backoff_base has never been changed. It has its default, 2." in cli("config", "history", "backoff_base").err
    cli("config", "set", "backoff_base", "3")
    cli("config", "unset", "backoff_base")
    rows = cli("config", "history", "backoff_base").lines
    assert [row.split()[-3:] for row in rows[1:]] == [["3", "2", "default"], ["person:ana", "2", "3"]]
    newest, first = cli("config", "history", "backoff_base", "--json").json
    assert (newest["from"], newest["to"], newest["to_default"], first["from_default"]) == (3, 2, True, True)
    assert "Did you mean" in cli("config", "history", "backof_base").err


def test_get_loads_neither_the_console_nor_the_models(home: Path) -> None:
    script = (
        "import sys; from webapp.commands import main; code = main(['config', 'get', 'backoff_base']);"
        "no = ('webapp.console', 'flask_wtf', 'wtforms', 'rich', 'gunicorn', 'worker');"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in no or name in no), file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "[]\n")


def test_a_queue_has_its_own_value_by_option_or_by_key(app: Flask, cli: Cli) -> None:
    make_queue("mail")
    assert cli("config", "set", "keep_output", "3", "--queue", "mail").out == "keep_output@mail = 3\n"
    assert cli("config", "get", "keep_output@mail").out == "3\n"
    assert cli("config", "get", "keep_output", "--queue", "mail", "--json").json["queue"] == "mail"
    assert "keep_output@mail" in cli("config", "list").out
    assert "keep_output@mail" not in cli("config", "history", "keep_output").out
    assert "from" in cli("config", "history", "keep_output", "--queue", "mail", "--json").json[0]
    assert cli("config", "unset", "keep_output", "--queue", "mail").out == "keep_output@mail = 0 (default)\n"
    assert "no such queue: 'none'" in cli("config", "set", "keep_output", "3", "--queue", "none").err
    assert "one value for all queues" in cli("config", "set", "lease", "30", "--queue", "mail").err


def test_a_value_that_deletes_jobs_asks_first(app: Flask, cli: Cli) -> None:
    make_job("dead", finished_at=clock.now() - 9 * clock.DAY)
    asked = cli("config", "set", "keep_dead", "4", stdin=b"n\n")
    # The click of Python 3.9 writes the space after the question to stdout.
    assert (asked.code, asked.out.strip()) == (1, "")
    assert "keep_dead = 4 deletes 1 dead letter within minutes, with attempts and output." in asked.err
    assert "Nothing was saved." in asked.err
    assert "needs an answer, but there is no input" in cli("config", "set", "keep_dead", "4").err
    assert cli("config", "set", "keep_dead", "4", stdin=b"y\n").out.strip() == "keep_dead = 4"
    assert cli("config", "set", "keep_dead", "3", "--yes").out == "keep_dead = 3\n"
