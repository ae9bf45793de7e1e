"""`user`: the people who may log in to the console. What a name and a password may be, `webapp/accounts/users.py` says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

import click

from webapp.commands.shared.core import actor, core, json_option
from webapp.commands.shared.output import Column, local_time, present
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.db.models import User, UserSession

ROLES = ("viewer", "operator", "admin")


@click.group(epilog="Example: manage.py user add ana --role operator")
def user() -> None:
    """Manage the people who may log in."""


def _password_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")(command)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("A password is typed at a terminal, or piped in with --password-stdin.")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return answer


@contextmanager
def _fields_named() -> Iterator[None]:
    """Puts the field's name before what is wrong with it: 'password: has 3 characters …'."""
    from webapp.accounts.users import AccountError

    try:
        yield
    except AccountError as error:
        raise click.ClickException(f"{error.field}: {error}") from None


@user.command(epilog="Example: manage.py user add ana --role operator")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="operator",
    show_default=True,
    help="viewer: looks. operator: acts on jobs, too. admin: settings and people, too.",
)
@_password_option
def add(name: str, role: str, password_stdin: bool) -> None:
    """Let NAME log in. The password is asked for."""
    from webapp.accounts import users

    password = _password(password_stdin)
    with core(), _fields_named():
        users.add(name, password, role, actor())
    click.echo(f"{name}: may log in, as {role}")


@user.command(epilog="Example: manage.py user passwd ana")
@click.argument("name")
@_password_option
def passwd(name: str, password_stdin: bool) -> None:
    """Give NAME a new password and end their sessions."""
    from webapp.accounts import users

    password = _password(password_stdin)
    with core(), _fields_named():
        users.set_password(name, password, actor())
    click.echo(f"{name}: has a new password; their sessions are ended")


@user.command(epilog="Example: manage.py user role ana viewer")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
def role(name: str, role: str) -> None:
    """Change what NAME may do. A lesser role ends their sessions."""
    from webapp.accounts import users

    with core(), _fields_named():
        changed = users.set_role(name, role, actor())
    click.echo(f"{name}: is {role}{' now' if changed else ' already'}")


@user.command(epilog="Example: manage.py user disable ana")
@click.argument("name")
def disable(name: str) -> None:
    """Let NAME in no more, and end their sessions."""
    from webapp.accounts import users

    with core(), _fields_named():
        changed = users.set_disabled(name, True, actor())
    click.echo(f"{name}: {'may no longer log in' if changed else 'is disabled already'}")


@user.command(epilog="Example: manage.py user enable ana")
@click.argument("name")
def enable(name: str) -> None:
    """Let NAME log in again."""
    from webapp.accounts import users

    with core(), _fields_named():
        changed = users.set_disabled(name, False, actor())
    click.echo(f"{name}: {'may log in again' if changed else 'is enabled already'}")


@user.command("sessions", epilog="Example: manage.py user sessions ana --end")
@click.argument("name")
@click.option("--end", is_flag=True, help="End them all: NAME is signed out everywhere.")
@json_option
def sessions_of(name: str, end: bool, as_json: bool) -> None:
    """Show where NAME is signed in, the last used first."""
    from webapp.accounts import sessions, users
    from webapp.db.engines import reading

    with core():
        if end:
            with _fields_named():
                ended = users.end_sessions(name, actor())
            click.echo(f"{name}: {f'signed out, sessions ended: {ended}' if ended else 'is signed in nowhere'}")
            return
        with reading() as session:
            found = users.find(session, name)
            rows = sessions.of_user(session, found.id) if found is not None else []
    if found is None:
        raise click.ClickException(f"name: no such user: {name!r}.")
    columns = [
        Column("STARTED", lambda row: local_time(row.created_at)),
        Column("LAST USED", lambda row: local_time(row.seen_at)),
        Column("ADDRESS", lambda row: row.address),
        Column("BROWSER", lambda row: row.browser, flexible=True),
    ]
    present(rows, columns, as_json, _session_json, f"{name} is signed in nowhere.")


def _session_json(row: UserSession) -> dict[str, Any]:
    return {
        "address": row.address,
        "browser": row.browser,
        "started_at": clock.to_iso(row.created_at),
        "used_at": clock.to_iso(row.seen_at),
    }


@user.command("list", epilog="Example: manage.py user list --json")
@json_option
def list_users(as_json: bool) -> None:
    """List who may log in, and as what."""
    from webapp.accounts import users
    from webapp.db.engines import reading

    with core(), reading() as session:
        everyone = users.list_all(session)
    columns = [
        Column("NAME", lambda one: one.name),
        Column("ROLE", lambda one: one.role),
        Column("SINCE", lambda one: local_time(one.created_at)),
        Column("DISABLED", lambda one: local_time(one.disabled_at)),
    ]
    empty = "Nobody may log in yet. The link that `manage.py up` prints makes the first administrator."
    present(everyone, columns, as_json, _user_json, empty)


def _user_json(one: User) -> dict[str, Any]:
    return {
        "name": one.name,
        "role": one.role,
        "created_at": clock.to_iso(one.created_at),
        "disabled_at": clock.to_iso(one.disabled_at),
    }
