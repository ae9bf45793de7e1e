"""API tokens: the list, creating and revoking. A secret appears in one response only, never in a URL, cookie or log."""

from __future__ import annotations

import secrets
from typing import Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from webapp.accounts import tokens
from webapp.console.frame import htmx
from webapp.console.frame.params import whole_number
from webapp.console.frame.person import actor, needs
from webapp.db.engines import reading
from webapp.db.models import SCOPES, Token
from webapp.lib import clock
from webapp.lib.text import capitalize
from webapp.web.request_info import requested_origin

pages = Blueprint("tokens", __name__)

USUAL_LIFE = "90"
SOON = 7 * clock.DAY  # a token that expires within this time is marked


@pages.get("/tokens")
@needs("admin")
def index() -> ResponseReturnValue:
    """Working tokens; with `ended`, also expired and revoked ones."""
    ended = "ended" in request.args
    with reading() as session:
        rows = [(token, state_of(token)) for token in tokens.list_all(session, ended=ended)]
        return htmx.page("tokens", session, rows=rows, ended=ended, meanings=tokens.MEANINGS)


def state_of(token: Token) -> str:
    """As `tokens.state`, and 'soon' for tokens that expire within a week."""
    state = tokens.state(token)
    ends_soon = token.expires_at is not None and token.expires_at <= clock.now() + SOON
    return "soon" if state == "works" and ends_soon else state


@pages.get("/tokens/new")
@needs("admin", fresh=True)
def new(typed: Optional[dict[str, str]] = None, errors: Optional[dict[str, str]] = None) -> str:
    """The form. After an error, with what was typed."""
    return htmx.form_page(
        "tokens/new.html",
        typed=typed or {"name": "", "scope": SCOPES[0], "days": USUAL_LIFE},
        errors=errors or {},
        scopes=tokens.MEANINGS.items(),
    )


@pages.post("/tokens/new")
@needs("admin", fresh=True)
def make() -> ResponseReturnValue:
    """Create a token and show its secret in this response: a redirect would have to carry it."""
    typed = {name: request.form.get(name, "").strip() for name in ("name", "scope", "days")}
    try:
        days = whole_number(typed["days"], 6)
        if days is None and typed["days"]:
            raise tokens.AccountError(
                "days", f"{typed['days'][:40]!r} is not a number of days. Choose one from the list."
            )
        secret, token = tokens.make(typed["name"], typed["scope"], days, actor())
    except tokens.AccountError as error:
        return new(typed, {error.field: capitalize(str(error))}), 422
    return htmx.form_page("tokens/made.html", token=token, secret=secret, meanings=tokens.MEANINGS)


@pages.post("/tokens/first")
@needs("admin", fresh=True)
def make_first() -> ResponseReturnValue:
    """Create a first token, and show examples that submit a job with it, once."""
    name = f"first-try-{secrets.token_hex(3)}"
    secret, token = tokens.make(name, "submit", int(USUAL_LIFE), actor())
    return htmx.form_page("tokens/first.html", token=token, secret=secret, url=requested_origin() + request.script_root)


@pages.post("/token/<name>/revoke")
@needs("admin")  # not fresh: revoking must be quick
def revoke(name: str) -> ResponseReturnValue:
    """Revoke a token, after confirmation. 409 if it has already ended."""
    if "confirmed" not in request.form:
        return htmx.ask(
            f"Revoke {name}?",
            "Programs that use this token lose access at once. This cannot be undone. The name stays taken.",
            "Revoke token",
            danger=True,
            back=url_for("tokens.index"),
        )
    if not tokens.revoke(name, actor()):
        return htmx.refused(f"No working token {name}. Nothing changed.")
    return htmx.done(f"Token {name} revoked.", back=url_for("tokens.index"))
