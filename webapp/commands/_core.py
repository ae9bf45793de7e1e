"""What every command shares before it does its work: the database behind it, and the person in front of it.

How answers look is in `_output.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, TypeVar, Union

import click

if TYPE_CHECKING:
    from webapp.config import Config

Command = TypeVar("Command", bound=Union[click.Command, Callable[..., Any]])


@contextmanager
def core() -> Iterator[Config]:
    """The application without its console; the first command on a fresh home makes the database here."""
    from webapp import config as configuration
    from webapp import create_core

    config = configuration.load()
    app = create_core(config)
    with app.app_context():
        try:
            yield config
        finally:
            disconnect()


def disconnect() -> None:
    """Close the connections of the application whose context this is."""
    from webapp.db import db

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


def json_option(command: Command) -> Command:
    """`--json`, the same on every command that reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


class Duration(click.ParamType):
    """Seconds, or a number with a unit: `90`, `1.5h`, `10m`."""

    name = "seconds"
    _units = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # noqa: RUF012 - not a dataclass

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        unit = self._units.get(text[-1:].lower(), 0)
        try:
            return float(text[:-1]) * unit if unit else float(text)
        except ValueError:
            self.fail(f"{value!r} is not a duration; expected seconds, or a number with s, m, h or d, like 10m.", param, ctx)


DURATION = Duration()
