"""The table of manage.py's commands, exit codes, and error messages.

The table names the module of each command. It is imported only when the command or its `--help` runs.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Optional

import click

from webapp.lib.system import streams
from webapp.lib.version import __version__

# name: (module:attribute, help)
COMMANDS = {
    "up": ("serve:up", "Start the console and its workers."),
    "demo": ("development.demo:demo", "Watch jobs succeed, retry and fail in a scratch database."),
    "enqueue": ("enqueue:enqueue", "Submit one job, or many from a file."),
    "run": ("run:run", "Submit a job, print its output, and end with its exit code."),
    "wait": ("run:wait", "Wait until jobs have completed."),
    "status": ("status:status", "Show job counts, workers and waiting jobs."),
    "commands": ("status:commands", "Show runs by command pattern, with failures and durations."),
    "list": ("jobs:list_jobs", "List jobs."),
    "show": ("jobs:show", "Show a job with its attempts and timeline."),
    "logs": ("jobs:logs", "Print the output of a job."),
    "batch": ("batch:batch", "List, show, close and retry batches of jobs."),
    "cancel": ("jobs:cancel", "Cancel jobs."),
    "edit": ("edit:edit", "Change a failed or cancelled job and retry it."),
    "run-now": ("jobs:run_now", "Run blocked, scheduled or failed jobs now."),
    "notify": ("notifications.notification:notify", "Send a message when jobs end."),
    "dlq": ("dlq:dlq", "List, retry and discard dead letters."),
    "activity": ("jobs:activity", "List, undo and stop bulk actions."),
    "worker": ("worker:worker", "Start, list, drain, scale and stop workers."),
    "schedule": ("schedules.schedule:schedule", "Run jobs at set times."),
    "rule": ("notifications.rule:rule", "Choose which events send messages, and to which channel."),
    "channel": ("notifications.channel:channel", "Manage where messages go: mail, webhooks, chats."),
    "notification": ("notifications.notification:notification", "List messages and open alerts."),
    "queue": ("queue:queue", "List, pause and resume queues."),
    "limits": ("limits:limits", "Limit how many jobs run at a time."),
    "config": ("config:config", "Show and change settings."),
    "user": ("accounts:user", "Manage user accounts."),
    "token": ("accounts:token", "Manage API tokens."),
    "audit": ("audit:audit", "Show and export the audit trail."),
    "web": ("serve:web", "Start the console without workers."),
    "db": ("admin:db", "Upgrade, check, back up, restore and move the database."),
    "doctor": ("admin:doctor", "Check this machine and this installation."),
    "metrics": ("metrics:metrics", "Print metrics for Prometheus."),
    "bench": ("development.bench:bench", "Run benchmarks."),
    "test": ("development.test:test", "Run lint, type checks and tests."),
}
# The headings of the help, by the first command under each.
SECTIONS = {"up": "Get started", "status": "Jobs", "worker": "Operation", "user": "Access", "web": "Installation"}

DATABASE_MODULES = {"sqlalchemy", "sqlite3", "pysqlite3", "psycopg"}
ENVIRONMENT_ERRORS = {"OperationalError", "InternalError", "DatabaseError"}
DATABASE_ERRORS = {*ENVIRONMENT_ERRORS, "IntegrityError", "DataError", "ProgrammingError", "NotSupportedError"}
DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


class LazyGroup(click.Group):
    """A group that takes names and help from the table, and imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"webapp.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        sections: list[list[tuple[str, str]]] = []
        for name, (_, text) in COMMANDS.items():
            if name in SECTIONS:
                sections.append([])
            sections[-1].append((name.ljust(max(map(len, COMMANDS))), text))
        for heading, rows in zip(SECTIONS.values(), sections):
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""'manage.py COMMAND --help' shows the options of a command, with an example.

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 already taken, 4 not found, 5 refused by the state, 6 queue out of
    reach, 130 Ctrl-C.""",
)
@click.version_option(__version__, prog_name="queuectl", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """queuectl is a background job queue with a web console. A job is a shell command."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str]) -> int:
    """Run one command; return its exit code, see `exit_codes.py`."""
    # The imports of a command make more than 100,000 objects and no garbage: with the default thresholds, and with the
    # collection at exit, a command with SQLAlchemy took 420 ms instead of 300.
    gc.set_threshold(200_000)
    atexit.register(gc.freeze)
    streams.set_up()
    try:
        result = cli.main(list(argv), prog_name="manage.py", standalone_mode=False)
        sys.stdout.flush()  # here, so that a closed pipe is caught below and not at exit
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        return complain(usage(error), error.exit_code)
    except click.Abort as abort:
        # click raises Abort both for Ctrl-C and for a prompt without input.
        if isinstance(abort.__context__, EOFError):
            return complain("Error: the command needs an answer, but there is no input.")
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_output()  # `manage.py list | head`
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            _discard_output()
        message = message_of(error)
        if message is None:
            raise
        from webapp.commands.exit_codes import ExitCode, code_of

        unusable = _is_of_database(error) or _is_of_access(error)
        return complain(f"Error: {message}", ExitCode.UNAVAILABLE if unusable else code_of(error))


def _discard_output() -> None:
    """Send buffered output to the null device, so that Python does not write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def message_of(error: Exception) -> Optional[str]:
    """Return the message for the user, or None for a defect, which keeps its traceback."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    kind = type(error)
    if kind.__module__.partition(".")[0] in {"webapp", "worker"}:  # our own exceptions are messages
        field = getattr(error, "field", None)
        return f"{field}: {error}" if field else str(error)
    if _is_of_database(error):
        # Problems of the machine, such as a full disk or a lost connection. A wrong statement has another class.
        from webapp import config
        from webapp.core.storage import db_errors

        reason = db_errors.explain(error, config.load())
        raw = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        if reason is not None or _standard_name(kind) in ENVIRONMENT_ERRORS:
            return f"{reason or 'database error: ' + raw}."
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object[:100]!a} is not UTF-8 text."  # an argument in another encoding
    if isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename is None:
        return f"cannot write the output: {error.strerror}."
    if isinstance(error, OSError) and _is_of_access(error):
        from webapp.lib.system.private_files import denial

        reason = denial([Path(os.fsdecode(error.filename))]) if isinstance(error.filename, (str, bytes)) else None
        hint = " Does it belong to another user?" if isinstance(error, PermissionError) else ""
        return f"{reason}." if reason else f"{error.filename}: {error.strerror}.{hint}"
    return None


def _is_of_database(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in DATABASE_MODULES


def _is_of_access(error: Exception) -> bool:
    """Whether a file, such as the lock of the queue, may not be opened."""
    refused = isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS)
    return refused and getattr(error, "filename", None) is not None


def _standard_name(kind: type) -> str:
    """The name of the DB-API class that an error's class is or extends."""
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in DATABASE_ERRORS), "")


def complain(text: str, code: int = 1) -> int:
    click.echo(text, err=True)
    return code


def usage(error: click.UsageError) -> str:
    """Return a usage error as one line that names the help, or the help itself if that is the message."""
    text = error.format_message()
    if error.ctx is None or text.startswith("Usage:"):
        return text
    text = " ".join(text.split())
    unknown = re.match(r"No such command '([^']*)'", text)
    if unknown and isinstance(error.ctx.command, click.Group):
        import difflib  # only for this message: a start should not load it

        near = difflib.get_close_matches(unknown[1], error.ctx.command.list_commands(error.ctx), n=1)
        text = f"No such command '{unknown[1]}'." + (f" Did you mean '{near[0]}'?" if near else "")
    stop = "" if text.endswith((".", "?", "!")) else "."
    return f"Error: {text}{stop} See '{error.ctx.command_path} --help'."
