"""The table of commands and its group: lazy loading, exit codes, and errors in one line."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Callable

import click
import pytest

from tests.commands.conftest import Cli
from tests.deadline import DEADLINE
from webapp.commands import COMMANDS, cli, main
from webapp.config import CHECKOUT, ConfigError

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `manage.py probe`, a command with a body from the test."""

    def run(body: Callable[[], object], *argv: str) -> int:
        monkeypatch.setitem(sys.modules, "webapp.commands.probe", SimpleNamespace(probe=click.command()(body)))
        monkeypatch.setitem(COMMANDS, "probe", ("probe:probe", ""))
        return main(["probe", *argv])

    return run


def raises(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []])
def test_help_and_version_load_no_command_and_only_the_click_library(argv: list[str]) -> None:
    script = (
        "import sys; from webapp.commands import main; code = main(sys.argv[1:]);"
        "heavy = {'flask', 'sqlalchemy', 'rich', 'alembic'} & set(sys.modules);"
        "print([*heavy, *(name for name in sys.modules if name.startswith('webapp.commands.'))], file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "queuectl" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_and_its_help_ends_with_an_example(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    assert f"manage.py {name}" in (command.epilog or "")


def test_a_misspelt_command_is_a_usage_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enqeue"]) == 2
    assert capsys.readouterr() == (
        "",
        "Error: No such command 'enqeue'. Did you mean 'enqueue'? See 'manage.py --help'.\n",
    )


def test_a_misspelt_option_is_a_usage_error_in_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: None, "--nope") == 2
    # click's own wording differs between the releases for Python 3.9 and for later ones.
    line = r"Error: No such option[: ']+--nope'?\. See 'manage\.py probe --help'\.\n"
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_command_returns_its_exit_code(run: Run, returned: object, code: int) -> None:
    assert run(lambda: returned) == code


@pytest.mark.parametrize("error", [click.ClickException("The job is dead."), ConfigError("The job is dead.")])
def test_a_user_error_is_one_line(run: Run, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raises(error)) == 1
    assert capsys.readouterr() == ("", "Error: The job is dead.\n")


def test_an_argument_in_another_encoding_is_one_line(cli: Cli) -> None:
    for argv in (["show", "\udcff"], ["cancel", "\udcff"], ["list", "--queue", "\udcff"], ["queue", "pause", "\udcff"]):
        result = cli(*argv)
        assert (result.code, result.out, result.err) == (1, "", "Error: '\\udcff' is not UTF-8 text.\n")


def test_a_file_of_another_user_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raises(PermissionError(13, "Permission denied", "/srv/queue.lock"))) == 6
    assert capsys.readouterr().err == "Error: /srv/queue.lock: Permission denied. Does it belong to another user?\n"


def test_a_defect_keeps_its_traceback(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_ctrl_c_is_130(run: Run) -> None:
    assert run(raises(KeyboardInterrupt())) == 130


def test_a_prompt_without_input_is_not_ctrl_c(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(lambda: click.confirm("Sure?")) == 1
    assert "needs an answer" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_causes_no_traceback() -> None:
    script = (
        "import sys, click; from types import SimpleNamespace; from webapp import commands;"
        "probe = click.command()(lambda: [print('x' * 80) for _ in range(50_000)]);"
        "sys.modules['webapp.commands.probe'] = SimpleNamespace(probe=probe);"
        "commands.COMMANDS['probe'] = ('probe:probe', '');"
        "sys.exit(commands.main(['probe']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == b"x" * 80 + b"\n"
        writer.stdout.close()
        assert writer.wait(DEADLINE) == 1
        assert writer.stderr.read() == b""
