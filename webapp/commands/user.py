"""`user`: accounts for the console. `webapp/accounts/users.py` has the rules for names and passwords."""

from __future__ import annotations

import sys
from typing import Any

import click

from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import Column, as_dict, local_time, present
from webapp.lib import clock

ROLES = click.Choice(("viewer", "operator", "admin"))


@click.group(epilog="Example: manage.py user add ana --role operator")
def user() -> None:
    """Manage user accounts."""


password_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask for a password. Pipe it in with --password-stdin.")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return answer


@user.command(epilog="Example: manage.py user add ana --role operator")
@click.argument("name")
@click.option(
    "--role",
    type=ROLES,
    default="operator",
    show_default=True,
    help="viewer: read only. operator: also acts on jobs. admin: also manages settings and users.",
)
@password_option
def add(name: str, role: str, password_stdin: bool) -> None:
    """Create an account for NAME. Asks for a password."""
    from webapp.accounts import users

    password = _password(password_stdin)
    with core():
        users.add(name, password, role, actor())
    click.echo(f"{name}: account created, role {role}")


@user.command(epilog="Example: manage.py user passwd ana")
@click.argument("name")
@password_option
def passwd(name: str, password_stdin: bool) -> None:
    """Set a new password for NAME and sign them out everywhere."""
    from webapp.accounts import users

    password = _password(password_stdin)
    with core():
        users.set_password(name, password, actor())
    click.echo(f"{name}: password changed; signed out everywhere")


@user.command(epilog="Example: manage.py user role ana viewer")
@click.argument("name")
@click.argument("role", type=ROLES)
def role(name: str, role: str) -> None:
    """Change the role of NAME. A lower role signs them out."""
    from webapp.accounts import users

    with core():
        changed = users.set_role(name, role, actor())
    click.echo(f"{name}: {'role is now' if changed else 'role is already'} {role}")


@user.command(epilog="Example: manage.py user disable ana")
@click.argument("name")
def disable(name: str) -> None:
    """Block sign-in for NAME and sign them out everywhere."""
    _set_disabled(name, True)


@user.command(epilog="Example: manage.py user enable ana")
@click.argument("name")
def enable(name: str) -> None:
    """Allow NAME to sign in again."""
    _set_disabled(name, False)


def _set_disabled(name: str, disabled: bool) -> None:
    from webapp.accounts import users

    with core():
        changed = users.set_disabled(name, disabled, actor())
    click.echo(f"{name}: {'' if changed else 'already '}{'disabled' if disabled else 'enabled'}")


@user.command("sessions", epilog="Example: manage.py user sessions ana --end")
@click.argument("name")
@click.option("--end", is_flag=True, help="Sign NAME out everywhere.")
@json_option
def list_sessions(name: str, end: bool, as_json: bool) -> None:
    """List the sessions of NAME, last used first."""
    from webapp.accounts import sessions, users

    empty = f"{name} is not signed in."
    if end:
        with core():
            ended = users.end_sessions(name, actor())
        click.echo(f"{name}: signed out, sessions ended: {ended}" if ended else empty)
        return
    with read_session() as session:
        found = users.find(session, name)
        if found is None:
            raise click.ClickException(f"name: no such user: {name!r}.")
        rows = sessions.of_user(session, found.id)
    columns = [
        Column("STARTED", lambda row: local_time(row.created_at)),
        Column("LAST USED", lambda row: local_time(row.seen_at)),
        Column("ADDRESS", lambda row: row.address),
        Column("BROWSER", lambda row: row.browser, flexible=True),
    ]
    present(rows, columns, as_json, _session_json, empty)


def _session_json(row: Any) -> dict[str, Any]:
    times = {"started_at": clock.to_iso(row.created_at), "used_at": clock.to_iso(row.seen_at)}
    return {**as_dict(row, "address", "browser"), **times}


@user.command("list", epilog="Example: manage.py user list --json")
@json_option
def list_users(as_json: bool) -> None:
    """List user accounts and their roles."""
    from webapp.accounts import users

    with read_session() as session:
        everyone = users.list_all(session)
    columns = [
        Column("NAME", lambda one: one.name),
        Column("ROLE", lambda one: one.role),
        Column("CREATED", lambda one: local_time(one.created_at)),
        Column("DISABLED", lambda one: local_time(one.disabled_at)),
    ]
    empty = "No users yet. `manage.py up` prints a link that creates the admin account."
    present(everyone, columns, as_json, lambda one: as_dict(one, "name", "role", "created_at", "disabled_at"), empty)
