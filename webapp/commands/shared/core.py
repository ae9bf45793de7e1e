"""What every command shares before it does its work: the database behind it, and the person in front of it.

How answers look is in `_output.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

import click

from webapp.commands.shared.output import one_line, print_json, say
from webapp.lib import durations

if TYPE_CHECKING:
    from webapp.config import Config
    from webapp.db.models import Job
    from webapp.jobs.actions import Result
    from webapp.jobs.lifecycle import Outcome

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.2, which Python 3.9 does not get

Command = TypeVar("Command", bound=Union[click.Command, Callable[..., Any]])


@contextmanager
def core(config: Optional[Config] = None, *, noting: bool = True) -> Iterator[Config]:
    """The application without its console; the first command on a fresh home makes the database here.

    Whoever has read a queue that was moved is told so in the end, unless `noting` is off; and so is whoever met any
    error there, for it is of a queue that was. Raises ConfigError, and Elsewhere.
    """
    from webapp import config as configuration
    from webapp.db.application import create_core

    config = config or configuration.load()
    app = create_core(config)
    with app.app_context():
        try:
            yield config
        except (BrokenPipeError, click.Abort):
            raise
        except Exception as error:
            words = _moved() if noting else None
            if words is None:
                raise
            from webapp.core.relocated import Relocated

            raise Relocated(words) from error
        else:
            words = _moved() if noting else None
            if words is not None:
                click.echo(f"Note: {words}.", err=True)
        finally:
            disconnect()


def _moved() -> Optional[str]:
    from webapp.core import relocated
    from webapp.db.engines import read_engine

    try:
        with read_engine().connect() as connection:
            return relocated.note(connection)
    except Exception:  # the database cannot even be read, and that is being said
        return None


def disconnect() -> None:
    """Close the connections of the application whose context this is."""
    from webapp.db.engines import db

    for engine in db.engines.values():
        engine.dispose()


def actor() -> str:
    """Who acts, for the record: `person:` and the login name."""
    import getpass

    try:
        name = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container whose user has no name
        import os

        name = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return f"person:{name}"


def found(job: Optional[Job], job_id: str) -> Job:
    """The job that was looked for. Raises NotFound where there is none."""
    from webapp.jobs.lifecycle import NotFound

    if job is None:
        raise NotFound(f"no such job: {job_id!r}. `manage.py list` shows the newest.")
    return job


def json_option(command: Command) -> Command:
    """`--json`, the same on every command that reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


class Parsed(_ParamType):
    """A value that a function reads from a text, or refuses with a ValueError."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        try:
            return self._read(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Parsed("duration", durations.parse)
SINCE = Parsed("time", durations.parse_since)


def tell_outcome(outcome: Outcome, became: str, rule: str, *, asked: str = "", thing: str = "job") -> int:
    """Say what became of each that was named; return the exit code: 1 where any was refused.

    `rule` says which can be moved at all: 'only scheduled and failed jobs can be made due'.
    """
    for id_ in outcome.moved:
        click.echo(f"{id_}: {became}")
    for id_ in outcome.asked:
        click.echo(f"{id_}: {asked}")
    for id_, state in outcome.refused.items():
        why = f"there is no such {thing}" if state is None else f"is {state}; {rule}"
        click.echo(f"{one_line(id_)}: {why}.", err=True)
    return 0 if outcome.done else 1


def tell_result(result: Result, became: str, rule: str, as_json: bool, *, asked: str = "") -> int:
    """The same for an action on named jobs, and how to undo it."""
    if as_json:
        from webapp.web import serializers

        print_json(serializers.outcome(result))
        return 0 if result.outcome.done else 1
    code = tell_outcome(result.outcome, became, rule, asked=asked)
    if result.undo is not None:
        say(f"Undo: manage.py activity undo {result.undo}")
    return code
