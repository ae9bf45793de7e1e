"""The table of manage.py's commands, and what they share: lazy loading, exit codes, one line for what went wrong.

What a command does stands in the module that the table names; it is imported when the command is run, or its own
`--help` asked for, and not before.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Optional

import click

from webapp.lib.version import __version__

# name: (module:attribute, help). In the order of a first day: submit, work, look, repair, tune, run for good.
COMMANDS = {
    "up": ("up:up", "Start everything: the console and its workers."),
    "demo": ("demo:demo", "Watch jobs succeed, retry and die, on a scratch database."),
    "enqueue": ("enqueue:enqueue", "Submit one job, or many from a file."),
    "worker": ("worker:worker", "Start, list, quiet and stop workers."),
    "status": ("status:status", "Show jobs by state, workers, and what waits."),
    "list": ("jobs:list_jobs", "List jobs."),
    "show": ("jobs:show", "Show one job: fields, attempts, events."),
    "logs": ("jobs:logs", "Show a job's output."),
    "cancel": ("jobs:cancel", "Stop jobs, waiting or running."),
    "run-now": ("jobs:run_now", "Make scheduled or failed jobs due at once."),
    "dlq": ("dlq:dlq", "Look at the dead letters, retry or discard them."),
    "activity": ("activity:activity", "Show what was done to jobs, and undo it."),
    "queue": ("queue:queue", "List, pause and resume queues."),
    "config": ("config:config", "Read and change what can be tuned while it runs."),
    "user": ("user:user", "Manage the people who may log in."),
    "token": ("token:token", "Manage what programs show to the API."),
    "audit": ("audit:audit", "Show who did what, and export it."),
    "web": ("web:web", "Start the console alone."),
    "db": ("db:db", "Check the database, back it up, move it, bring it up to date."),
    "doctor": ("doctor:doctor", "Check this machine and this installation."),
    "bench": ("bench:bench", "Measure this machine, and the queue on it."),
    "test": ("test:test", "Run lint, types and every test."),
}

# What a full disk, or a broken one, says to who writes.
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help from the table, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"webapp.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: manage.py enqueue --command 'echo hello'",
)
@click.version_option(__version__, prog_name="queuectl", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """queuectl, a background job queue: one file, one command, a web console."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str]) -> int:
    """Run one command; return its exit code: 0, 1 (it could not be done), 2 (usage) or 130 (Ctrl-C)."""
    # A command's imports make 100,000 objects and no garbage: with the collector's usual thresholds, and with its last
    # round at the interpreter's end, an `enqueue` took 420 ms where it now takes 300.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    _open_what_is_closed()
    try:
        result = cli.main(list(argv), prog_name="manage.py", standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that went away is not yet an error at exit
    except click.UsageError as error:
        return complain(usage(error), error.exit_code)
    except click.ClickException as error:
        return complain(f"Error: {error.format_message()}", error.exit_code)
    except click.Abort as abort:
        # click makes one exception of Ctrl-C and of a prompt without an answer.
        if isinstance(abort.__context__, EOFError):
            return complain("Error: a question was asked, and there is nobody to answer it.", 1)
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()  # `manage.py list | head`
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            _drop_output()
        sentence = as_sentence(error)
        if sentence is None:
            raise
        return complain(f"Error: {sentence}", 1)
    return result if isinstance(result, int) else 0


def _open_what_is_closed() -> None:
    """Put the null device in the place of what whoever started this has closed (`>&-`): Python has None there, and the
    next file that is opened would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as this runs


def _drop_output() -> None:
    """What is still buffered has nowhere to go, and must not be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_sentence(error: Exception) -> Optional[str]:
    """Return what a person is told of an error; None for a defect, which keeps its traceback."""
    kind = type(error)
    if kind.__module__.partition(".")[0] in {"webapp", "worker"}:  # our own exceptions are sentences
        return str(error)
    if kind.__module__ == "sqlalchemy.exc" and kind.__name__ in {"OperationalError", "InternalError", "DatabaseError"}:
        # What the machine did to the database: a full disk, a lost connection. A wrong statement is another class.
        from webapp.db import db_errors

        raw = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        return f"{db_errors.explain(error) or 'the database: ' + raw}."
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object[:100]!a} is not UTF-8 text."  # as an argument, bytes of another encoding
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
        return f"its output cannot be written: {error.strerror}."
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Does it belong to another user?"
    return None


def complain(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code


def usage(error: click.UsageError) -> str:
    """Return the error as one line that ends with where to read on; or the help, where that is what click raised."""
    text = error.format_message()
    if error.ctx is None or text.startswith("Usage:"):
        return text
    text = " ".join(text.split())
    unknown = re.match(r"No such command '([^']*)'", text)
    if unknown and isinstance(error.ctx.command, click.Group):
        near = difflib.get_close_matches(unknown[1], error.ctx.command.list_commands(error.ctx), n=1)
        text = f"No such command '{unknown[1]}'." + (f" Did you mean '{near[0]}'?" if near else "")
    stop = "" if text.endswith((".", "?", "!")) else "."
    return f"Error: {text}{stop} See '{error.ctx.command_path} --help'."
