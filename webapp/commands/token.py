"""`token`: API tokens for programs. `webapp/accounts/tokens.py` says what each scope allows."""

from __future__ import annotations

from typing import Any, Optional

import click

from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import Column, ago, as_dict, local_time, present, say

SCOPES = ("read", "submit", "operate", "admin")
SHOWN_STATES = {"works": "active", "over": "expired"}


@click.group(epilog="Example: manage.py token create deploy --scope submit --days 90")
def token() -> None:
    """Manage API tokens for programs."""


@token.command(epilog="Example: manage.py token create deploy --scope submit --days 90")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
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
        return {**as_dict(one, "name", "scope"), "state": tokens.state(one), **as_dict(one, *more)}

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
            raise click.ClickException(f"no active token: {name!r}. `manage.py token list` shows them.")
    click.echo(f"{name}: revoked")
