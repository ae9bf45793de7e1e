"""What commands share before they do their work: the database, the current user, options, answers to actions."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import click

from webapp.commands.exit_codes import ExitCode, Failure, code_of_refusals
from webapp.commands.shared.output import one_line, print_json, say
from webapp.core.storage import relocated
from webapp.lib import durations, past_times

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from webapp.config import Config
    from webapp.core.storage.database import Database
    from webapp.db.models import Job
    from webapp.jobs.actions import Result
    from webapp.jobs.lifecycle import Outcome

PAGE = 500  # rows of one read
Command = TypeVar("Command", bound=Union[click.Command, Callable[..., Any]])


# --- the database ----------------------------------------------------------------------------------------------------


@contextmanager
def core(config: Optional[Config] = None, *, noting: bool = True) -> Iterator[Config]:
    """Open the application without its web parts. In a new home folder this creates the database.

    If the queue was moved to another database, a note at the end says so. An error then becomes that note, because
    it comes from the old database. `noting=False` turns this off. Raises ConfigError and Relocated.
    """
    from webapp import config as configuration
    from webapp.db import engines
    from webapp.db.application import create_core

    config = config or configuration.load()
    with create_core(config).app_context():
        try:
            yield config
        except (BrokenPipeError, click.Abort):
            raise
        except Exception as error:
            note = relocation() if noting else None
            if note is None:
                raise
            raise relocated.Relocated(note) from error
        else:
            if noting:
                _say_notes(config)
        finally:
            engines.disconnect()


def _say_notes(config: Config) -> None:
    from webapp.commands.shared import elsewhere

    moved, hint = relocation(), elsewhere.hint(config)
    if moved is not None:
        say(f"Note: {moved}.")
    if hint is not None:
        say(f"Note: {hint}")


@contextmanager
def plain_database() -> Iterator[Database]:
    """Open the database without SQLAlchemy, for a command that must start fast. Raises ConfigError.

    In a new home folder this creates the database.
    """
    from webapp import config as configuration
    from webapp.core.storage.database import open_database

    config = configuration.load()
    database = open_database(config)
    if not database.is_current():
        with core(config):
            pass  # it has created or upgraded the database
    try:
        yield database
    finally:
        database.close()


@contextmanager
def read_session() -> Iterator[Session]:
    """Open the application and one read transaction."""
    from webapp.db.engines import reading

    with core(), reading() as session:
        yield session


def relocation() -> Optional[str]:
    """Return where the queue was moved, or None if this database accepts changes or cannot be read."""
    from webapp.db import engines

    try:
        with engines.read_engine().connect() as connection:
            return engines.moved_note(connection)
    except Exception:  # the database cannot be read, and the first error already says so
        return None


def find_job(session: Session, job_id: str) -> Job:
    """Return the job with this id. Raises ClickException with the code NOT_FOUND if there is none."""
    from webapp.jobs import job_detail

    job = job_detail.find(session, job_id)
    if job is None:
        raise Failure(ExitCode.NOT_FOUND, f"no such job: {job_id!r}. `manage.py list` shows the newest jobs.")
    return job


# --- the person ------------------------------------------------------------------------------------------------------


def actor() -> str:
    """Return the actor for the audit trail: `person:` and the system's user name."""
    try:
        name = getpass.getuser()
    except (ImportError, KeyError, OSError):  # in a container the user may have no name
        name = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return f"person:{name}"


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, so that cleanup runs. By default they end the process at once."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    before = {number: signal.signal(number, lambda got, _: sys.exit(128 + got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- options ---------------------------------------------------------------------------------------------------------


def as_utf8(argument: str) -> str:
    """An argument that is not a file name, as the terminal sent it: terminals send UTF-8, whatever the locale says.

    Under another locale, Python reads it as other letters. An argument that is not UTF-8 stays as the locale has it.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def with_options(*given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add options to a command, in this order."""

    def add(command: Any) -> Any:
        for option in reversed(given):
            command = option(command)
        return command

    return add


def json_option(command: Command) -> Command:
    # Eager: `limit_option` depends on it.
    return click.option("--json", "as_json", is_flag=True, is_eager=True, help="Print JSON.")(command)


def count_option(name: str, default: int, most: Optional[int], help_: str) -> Callable[[Command], Command]:
    """Return an option that takes a number from 1 to `most`."""
    return click.option(name, type=click.IntRange(1, most), default=default, show_default=True, help=help_)


def limit_option(default: int, most: Optional[int] = None) -> Callable[[Command], Command]:
    """Return an option for the number of rows. Programs get all: with --json its default is None."""

    def choose(ctx: click.Context, _parameter: click.Parameter, value: Optional[int]) -> Optional[int]:
        return value or (None if ctx.params.get("as_json") else default)

    help_ = f"Maximum number of rows.  [default: {default}; with --json: all]"
    return click.option("--limit", type=click.IntRange(1, most), callback=choose, help=help_)


def first_views(read: Callable[..., Any], limit: Optional[int], **wanted: Any) -> tuple[list[Any], bool]:
    """The first `limit` views of a list (None: all) that `read` returns in pages, and whether there are more."""
    found: list[Any] = []
    after: Optional[str] = None
    while True:
        size = PAGE if limit is None else min(PAGE, limit - len(found))
        page = read(limit=size, after=after, **wanted)
        found, after = found + page.views, page.older
        if after is None or len(found) == limit:
            return found, after is not None


def parsed(metavar: str, read: Callable[[str], Any]) -> dict[str, Any]:
    """Arguments for an option whose value `read` converts. Its ValueError becomes a usage error."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: Optional[str]) -> Any:
        try:
            return None if value is None else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return {"metavar": metavar, "callback": convert}


DURATION = parsed("DURATION", durations.parse)
SINCE = parsed("TIME", lambda text: past_times.since(text, None))


# --- answers ---------------------------------------------------------------------------------------------------------


def tell_outcome(outcome: Outcome, became: str, rule: str, *, asked: str = "", thing: str = "job") -> int:
    """Print a line for each named job or worker. Return the exit code.

    `rule` says which ones the command accepts, such as 'only dead letters can be discarded'.
    """
    for id_ in outcome.moved:
        click.echo(f"{id_}: {became}")
    for id_ in outcome.asked:
        click.echo(f"{id_}: {asked}")
    for id_, state in outcome.refused.items():
        if id_ in outcome.held:
            holder = outcome.held[id_]
            say(f"{id_}: its unique key {holder.key!r} {holder.text}.")
            continue
        say(f"{one_line(id_)}: {f'no such {thing}' if state is None else f'is {state}; {rule}'}.")
    return code_of_refusals(outcome.refused.values())


def tell_result(result: Result, became: str, rule: str, as_json: bool, *, asked: str = "") -> int:
    """Print what an action did to named jobs, and the command that undoes it. Return the exit code."""
    if as_json:
        from webapp.web import serializers

        print_json(serializers.outcome(result))
        return code_of_refusals(result.outcome.refused.values())
    code = tell_outcome(result.outcome, became, rule, asked=asked)
    if result.undo is not None:
        say(f"Undo: manage.py activity undo {result.undo}")
    return code
