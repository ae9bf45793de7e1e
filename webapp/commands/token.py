"""`token`: what programs show to the API. What each scope allows, `webapp/accounts/tokens.py` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.shared.core import actor, core, json_option
from webapp.commands.shared.output import Column, ago, local_time, present, say
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.db.models import Token

SCOPES = ("read", "submit", "operate", "admin")


@click.group(epilog="Example: manage.py token create deploy --scope submit --days 90")
def token() -> None:
    """Manage what programs show to the API."""


@token.command(epilog="Example: manage.py token create deploy --scope submit --days 90")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    required=True,
    help="read: looks. submit: submits jobs, too. operate: cancels, requeues, discards, too. admin: settings, too.",
)
@click.option("--days", type=int, help="Let it end after so many days (default: never).")
def create(name: str, scope: str, days: Optional[int]) -> None:
    """Make a token for the program NAME and print its secret, this once: only a hash of it is kept."""
    from webapp.accounts import tokens

    with core():
        try:
            secret, made = tokens.make(name, scope, days, actor())
        except tokens.AccountError as error:
            raise click.ClickException(f"{error.field}: {error}") from None
    ends = f"ends {local_time(made.expires_at)}" if made.expires_at is not None else "does not end by itself"
    say(f"{name}: {scope}, {ends}. This is its secret; it is shown this once:")
    click.echo(secret)


@token.command("list", epilog="Example: manage.py token list --all --json")
@click.option("--all", "all_", is_flag=True, help="Those that were revoked or are over, too.")
@json_option
def list_tokens(all_: bool, as_json: bool) -> None:
    """List the tokens that work, newest first; never their secrets."""
    from webapp.accounts import tokens
    from webapp.db.engines import reading

    with core(), reading() as session:
        found = tokens.list_all(session, ended=all_)
    now = clock.now()
    columns = [
        Column("NAME", lambda one: one.name),
        Column("SCOPE", lambda one: one.scope),
        Column("STATE", tokens.state),
        Column("ENDS", lambda one: local_time(one.expires_at)),
        Column("LAST USED", lambda one: ago(one.used_at, now) or "never"),
        Column("FROM", lambda one: one.used_from),
        Column("MADE BY", lambda one: one.created_by),
    ]
    empty = "No tokens." if all_ else "No tokens that work. Those that have ended are shown with --all."
    present(found, columns, as_json, _token_json, empty)


def _token_json(one: Token) -> dict[str, Any]:
    from webapp.accounts import tokens

    return {
        "name": one.name,
        "scope": one.scope,
        "state": tokens.state(one),
        "created_at": clock.to_iso(one.created_at),
        "created_by": one.created_by,
        "expires_at": clock.to_iso(one.expires_at),
        "used_at": clock.to_iso(one.used_at),
        "used_from": one.used_from,
        "revoked_at": clock.to_iso(one.revoked_at),
        "revoked_by": one.revoked_by,
    }


@token.command(epilog="Example: manage.py token revoke deploy")
@click.argument("name")
def revoke(name: str) -> None:
    """End the token NAME at once. It cannot be brought back."""
    from webapp.accounts import tokens

    with core():
        if not tokens.revoke(name, actor()):
            raise click.ClickException(
                f"there is no token {name!r} that still works. `manage.py token list` shows those that do."
            )
    click.echo(f"{name}: revoked")
