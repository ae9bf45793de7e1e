"""Log-in, log-out and the set-up link; who is signed in; the session cookie.

A session is a signed cookie that names a user and that user's `session_key`: a new key there ends every session of
that person. Roles are weighed in `gate.py`, passwords in `people.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user

from webapp import people
from webapp.console.here import is_public_https, local_path, port
from webapp.console.keys import secret_key
from webapp.console.roles import needs
from webapp.db import reading
from webapp.models import User

if TYPE_CHECKING:
    from flask import Flask
    from flask.typing import ResponseReturnValue
    from werkzeug.wrappers import Response

LIFE = 14 * 86400  # seconds from the log-in; nothing prolongs a session

pages = Blueprint("sessions", __name__)


class Person(UserMixin):  # type: ignore[misc]
    """Who is signed in, as pages need it."""

    def __init__(self, user: User) -> None:
        self.user_id = user.id
        self.name = user.name
        self.role = user.role
        self.session_key = user.session_key

    def get_id(self) -> str:
        """What the session keeps: the user, and the key that must still be the user's."""
        return f"{self.user_id}:{self.session_key}"

    @property
    def actor(self) -> str:
        return f"person:{self.name}"

    def may(self, role: str) -> bool:
        """Whether this person's role is `role` or more."""
        return people.ROLES.index(self.role) >= people.ROLES.index(role)


class CookieSessions(SecureCookieSessionInterface):
    """Flask's signed cookies under a name of our own: by port, and with the browser's strictest prefix on HTTPS."""

    def get_cookie_name(self, app: Flask) -> str:  # noqa: ARG002 -- Flask gives it
        return f"__Host-queuectl_{port()}" if is_public_https() else f"queuectl_{port()}"

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        return is_public_https()


def init_app(app: Flask) -> None:
    app.secret_key = secret_key(app.extensions["queuectl_config"].key_path)
    app.session_interface = CookieSessions()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,  # a poll renews nothing
        PERMANENT_SESSION_LIFETIME=LIFE,
    )
    logins = LoginManager(app)
    logins.session_protection = None  # it ties a session to an address and a browser's name, which change honestly
    logins.user_loader(_load)


def _load(identity: str) -> Optional[Person]:
    user_id, _, key = identity.partition(":")
    if not user_id.isdecimal() or time.time() - session.get("since", 0) > LIFE:
        return None
    with reading() as database:
        user = people.by_session(database, int(user_id), key)
    return Person(user) if user is not None else None


def current_person() -> Optional[Person]:
    """Who asks, or None."""
    return current_user._get_current_object() if current_user.is_authenticated else None


def this_person() -> Person:
    """Who asks, behind the gate, where there always is somebody."""
    person = current_person()
    if person is None:
        raise RuntimeError("a view behind the gate was reached without a person")
    return person


def actor() -> str:
    return this_person().actor


# --- pages -----------------------------------------------------------------------------------------------------------


@pages.route("/login", methods=["GET", "POST"])
def log_in() -> ResponseReturnValue:
    """Ask for name and password; then go where the person wanted to go."""
    target = local_path(request.values.get("next"), url_for("overview.index"))
    if request.method != "POST":
        if current_person() is not None:
            return redirect(target, 303)
        return _log_in_page(target)
    name = request.form.get("name", "").strip()
    with reading() as database:
        user = people.authenticate(database, name, request.form.get("password", ""))
    if user is None:
        return _log_in_page(target, name, "Name or password do not fit. Check both and try again."), 422
    _begin(Person(user))
    return redirect(target, 303)


def _log_in_page(target: str, name: str = "", problem: str = "") -> str:
    with reading() as database:
        fresh = people.needs_setup(database)
    return render_template("sessions/log_in.html", target=target, name=name, problem=problem, fresh=fresh)


def _begin(person: Person) -> None:
    session.clear()  # nothing of the stranger's session lives on, its CSRF token included
    session.permanent = True
    session["since"] = int(time.time())
    login_user(person)


@pages.post("/logout")
@needs("viewer")
def log_out() -> Response:
    logout_user()
    session.clear()
    response = redirect(url_for("sessions.log_in"), 303)
    response.headers["Clear-Site-Data"] = '"cache", "storage"'  # not cookies: other programs on this host have theirs
    return response


@pages.route("/setup/<token>", methods=["GET", "POST"])
def set_up(token: str) -> ResponseReturnValue:
    """The one-time link that makes the first administrator. Looking at it does not use it up."""
    if request.method != "POST":  # HEAD looks, too
        with reading() as database:
            good = people.setup_link_is_good(database, token)
        return _set_up_page(token) if good else _spent_link()
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    if password != request.form.get("again", ""):
        return _set_up_page(token, name, "again", "The two passwords differ. Type the same one twice."), 422
    try:
        made = people.set_up(token, name, password)
    except people.PersonError as error:
        return _set_up_page(token, name, error.field, str(error)), 422
    if not made:
        return _spent_link()
    with reading() as database:
        user = people.authenticate(database, name, password)
    if user is not None:
        _begin(Person(user))
    flash(f"Welcome, {name}. This queue is yours.", "success")
    return redirect(url_for("overview.index"), 303)


def _set_up_page(token: str, name: str = "", bad: str = "", problem: str = "") -> str:
    return render_template(
        "sessions/set_up.html", token=token, name=name, bad=bad, problem=problem, shortest=people.SHORTEST
    )  # fmt: skip


def _spent_link() -> ResponseReturnValue:
    with reading() as database:
        fresh = people.needs_setup(database)
    return render_template("sessions/spent.html", fresh=fresh), 404
