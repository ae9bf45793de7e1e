"""`user` and `token`: who may use the console and the API.

`webapp/accounts/users.py` has the rules for names and passwords, `webapp/accounts/tokens.py` what each scope allows.
"""

from __future__ import annotations

import sys
from typing import Any, Optional

import click

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import Column, ago, local_time, present, say
from webapp.lib import clock

ROLES = click.Choice(("viewer", "operator", "admin"))
SCOPES = click.Choice(("read", "submit", "operate", "admin"))
SHOWN_STATES = {"works": "active", "over": "expired"}  # of tokens


@click.group(epilog="Example: manage.py user add ana --role operator")
def user() -> None:
    """Manage user accounts."""


password_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        try:  # Bytes: the encoding of stdin may be another one than that of the pipe.
            return sys.stdin.buffer.readline().decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.ClickException("the password on standard input is not UTF-8 text.") from None
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
            raise Failure(ExitCode.NOT_FOUND, f"name: no such user: {name!r}.")
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
    return {**clock.columns(row, "address", "browser"), **times}


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
    shown = ("name", "role", "created_at", "disabled_at")
    present(everyone, columns, as_json, lambda one: clock.columns(one, *shown), empty)


@click.group(epilog="Example: manage.py token create deploy --scope submit --days 90")
def token() -> None:
    """Manage API tokens for programs."""


@token.command(epilog="Example: manage.py token create deploy --scope submit --days 90")
@click.argument("name")
@click.option(
    "--scope",
    type=SCOPES,
    required=True,
    help="read: read only. submit: also submits jobs. operate: also acts on jobs. admin: also changes settings.",
)
@click.option("--days", type=int, help="Days until it expires (default: never).")
def create(name: str, scope: str, days: Optional[int]) -> None:
    """Create a token for the program NAME and print its secret.

    The secret is shown only once: queuectl stores a hash of it.
    """
    from webapp.accounts import tokens

    with core():
        secret, made = tokens.make(name, scope, days, actor())
    expires = "never expires" if made.expires_at is None else f"expires {local_time(made.expires_at)}"
    say(f"{name}: {scope}, {expires}. The secret is shown only once:")
    click.echo(secret)


@token.command("list", epilog="Example: manage.py token list --all --json")
@click.option("--all", "all_", is_flag=True, help="Include revoked and expired tokens.")
@json_option
def list_tokens(all_: bool, as_json: bool) -> None:
    """List active tokens, newest first."""
    from webapp.accounts import tokens

    with read_session() as session:
        found = tokens.list_all(session, ended=all_)

    def shape(one: Any) -> dict[str, Any]:
        more = ("created_at", "created_by", "expires_at", "used_at", "used_from", "revoked_at", "revoked_by")
        return {**clock.columns(one, "name", "scope"), "state": tokens.state(one), **clock.columns(one, *more)}

    columns = [
        Column("NAME", lambda one: one.name),
        Column("SCOPE", lambda one: one.scope),
        Column("STATE", lambda one: SHOWN_STATES.get(tokens.state(one), tokens.state(one))),
        Column("EXPIRES", lambda one: local_time(one.expires_at) or "never"),
        Column("LAST USED", lambda one: ago(one.used_at) or "never"),
        Column("FROM", lambda one: one.used_from),
        Column("CREATED BY", lambda one: one.created_by),
    ]
    empty = "No tokens." if all_ else "No active tokens. Use --all to include revoked and expired ones."
    present(found, columns, as_json, shape, empty)


@token.command(epilog="Example: manage.py token revoke deploy")
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke the token NAME at once. This cannot be undone."""
    from webapp.accounts import tokens

    with core():
        if not tokens.revoke(name, actor()):
            raise Failure(ExitCode.NOT_FOUND, f"no active token: {name!r}. `manage.py token list` shows them.")
    click.echo(f"{name}: revoked")
