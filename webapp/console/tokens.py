"""Tokens, what programs show to the API: all of them, making one, ending one. The secret is in one answer and never
again: not in a URL, a cookie or a log."""

from __future__ import annotations

from typing import Optional

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.accounts import tokens
from webapp.console import htmx
from webapp.console.nav import nav_of
from webapp.console.roles import needs
from webapp.console.sessions import actor
from webapp.console.wording import sentence
from webapp.db.engines import reading
from webapp.db.models import SCOPES, Token
from webapp.lib import clock

pages = Blueprint("tokens", __name__)

LIVES = (("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "no end: until somebody revokes it"))
USUAL_LIFE = "90"
SOON = 7 * clock.DAY  # before its end, a token is marked


@pages.get("/tokens")
@needs("admin")
def index() -> ResponseReturnValue:
    """All that work; with `ended`, the others too."""
    ended = "ended" in request.args
    with reading() as session:
        rows = [(token, state_of(token)) for token in tokens.every(session, ended=ended)]
        return htmx.page("tokens", session, rows=rows, ended=ended, meanings=tokens.MEANINGS)


def state_of(token: Token) -> str:
    """As `tokens.state`, and of those that work: soon, where the end is less than a week away."""
    state = tokens.state(token)
    ends_soon = token.expires_at is not None and token.expires_at <= clock.now() + SOON
    return "soon" if state == "works" and ends_soon else state


@pages.get("/tokens/new")
@needs("admin", fresh=True)
def new() -> ResponseReturnValue:
    return _new_page({"name": "", "scope": SCOPES[0], "days": USUAL_LIFE}, {})


@pages.post("/tokens/new")
@needs("admin", fresh=True)
def make() -> ResponseReturnValue:
    """Make one and show its secret, in this answer alone: a redirect would have to carry it."""
    typed = {name: request.form.get(name, "").strip() for name in ("name", "scope", "days")}
    try:
        secret, token = tokens.make(typed["name"], typed["scope"], _days(typed["days"]), actor())
    except tokens.TokenError as error:
        return _new_page(typed, {error.field: sentence(str(error))}), 422
    with reading() as session:
        nav = nav_of(session)
    return render_template("tokens/made.html", nav=nav, token=token, secret=secret, meanings=tokens.MEANINGS)


def _days(text: str) -> Optional[int]:
    """Raises TokenError."""
    if not text:
        return None
    if not text.isdecimal() or len(text) > 6:
        raise tokens.TokenError("days", f"{text[:40]!r} is no number of days; choose one of the list.")
    return int(text)


def _new_page(typed: dict[str, str], errors: dict[str, str]) -> str:
    with reading() as session:
        nav = nav_of(session)
    scopes = [(scope, tokens.MEANINGS[scope]) for scope in SCOPES]
    return render_template("tokens/new.html", nav=nav, typed=typed, errors=errors, scopes=scopes, lives=LIVES)


@pages.post("/token/<name>/revoke")
@needs("admin")  # not fresh: to take a right away must be quick
def revoke(name: str) -> ResponseReturnValue:
    """End a token at once, after a question. 409 where it had ended already."""
    if "confirmed" not in request.form:
        return htmx.ask(
            title=f"Revoke {name}?",
            text="Programs that show this token are refused at once. It cannot be brought back; its name stays taken.",
            examples=[],
            more=0,
            action=request.path,
            button="Revoke token",
            danger=True,
            hidden=[],
            back=url_for("tokens.index"),
        )
    if not tokens.revoke(name, actor()):
        return htmx.refused(f"There is no token {name} that still works. Nothing was changed.")
    return htmx.done(f"Token {name} is revoked.", back=url_for("tokens.index"))
