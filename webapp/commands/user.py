"""`user`: the people who may log in to the console. What a name and a password may be, `webapp/accounts/users.py` says."""

from __future__ import annotations

import sys
from typing import Any, Callable

import click

from webapp.commands._core import actor, core, json_option
from webapp.commands._output import Column, local_time, print_json, print_table, say
from webapp.lib import clock

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
            found = users.named(session, name)
            rows = sessions.of_user(session, found.id) if found is not None else []
    if found is None:
        raise click.ClickException(f"name: no such user: {name!r}.")
    if as_json:
        print_json(
            [
                {
                    "address": row.address,
                    "browser": row.browser,
                    "started_at": clock.to_iso(row.created_at),
                    "used_at": clock.to_iso(row.seen_at),
                }
                for row in rows
            ]
        )
    elif rows:
        print_table(
            [Column("STARTED"), Column("LAST USED"), Column("ADDRESS"), Column("BROWSER", flexible=True)],
            [(local_time(r.created_at), local_time(r.seen_at), r.address or "", r.browser or "") for r in rows],
        )
    else:
        say(f"{name} is signed in nowhere.")


class _fields_named:  # noqa: N801 - reads as a word of the with statement
    """Puts the field's name before what is wrong with it: 'password: has 3 characters …'."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        from webapp.accounts.users import PersonError

        if isinstance(error, PersonError):
            raise click.ClickException(f"{error.field}: {error}") from None


@user.command("list", epilog="Example: manage.py user list --json")
@json_option
def list_users(as_json: bool) -> None:
    """List who may log in, and as what."""
    from webapp.accounts import users
    from webapp.db.engines import reading

    with core(), reading() as session:
        everyone = users.everyone(session)
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "role": one.role,
                    "created_at": clock.to_iso(one.created_at),
                    "disabled_at": clock.to_iso(one.disabled_at),
                }
                for one in everyone
            ]
        )
    elif everyone:
        print_table(
            [Column("NAME"), Column("ROLE"), Column("SINCE"), Column("DISABLED")],
            [(one.name, one.role, local_time(one.created_at), local_time(one.disabled_at)) for one in everyone],
        )
    else:
        say("Nobody may log in yet. The link that `manage.py up` prints makes the first administrator.")
