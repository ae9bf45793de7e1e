"""Sign-in, sign-out, password confirmation, the set-up link, the cookies.

A session is a row (`webapp/accounts/sessions.py`). The signed cookie holds its id, the CSRF token and messages.
`accounts/users.py` checks passwords.
"""

from __future__ import annotations

import secrets
from typing import Any, Optional

from flask import Blueprint, Flask, Request, current_app, flash, g, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.wrappers import Response

from webapp.accounts import login_throttle, sessions, users
from webapp.console.frame import kept_form
from webapp.console.frame.person import SESSION_ID, Person, current_person, needs, this_person
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import User
from webapp.lib import clock
from webapp.lib.text import capitalize, plural
from webapp.web.faces import face_of
from webapp.web.request_info import address, cookie_path, is_public_https, local_path, port
from webapp.web.secret_key import secret_key

KNOWN_LIFE_SECONDS = 180 * 86400  # how long a browser is remembered after a sign-in
WRONG = "Wrong user name or password."

pages = Blueprint("sessions", __name__)


class CookieSessions(SecureCookieSessionInterface):
    """Flask's signed cookies, named by port, with a prefix on HTTPS by which browsers protect them."""

    def open_session(self, app: Flask, request: Request) -> Any:
        """None for the API: it ignores cookies, so other sites cannot use them."""
        if face_of(app, request.path).name == "console":
            return super().open_session(app, request)
        return self.make_null_session(app)

    def get_cookie_name(self, app: Flask) -> str:  # noqa: ARG002 -- Flask passes it
        return _cookie_name("")

    def get_cookie_path(self, app: Flask) -> str:  # noqa: ARG002
        return cookie_path()

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        return is_public_https()


def _cookie_name(what: str) -> str:
    protected = "__Host-" if cookie_path() == "/" else "__Secure-"  # __Host- must have the path /
    return f"{protected if is_public_https() else ''}queuectl{what}_{port()}"


def init_app(app: Flask) -> None:
    app.secret_key = secret_key(app.extensions["queuectl_config"].key_path)
    app.session_interface = CookieSessions()
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,  # polls must not renew a session
        PERMANENT_SESSION_LIFETIME=sessions.LIFE // clock.SECOND,
    )


# --- pages -----------------------------------------------------------------------------------------------------------


@pages.route("/login", methods=["GET", "POST"])
def log_in() -> ResponseReturnValue:
    """Sign in, then go to the requested page."""
    target = local_path(request.values.get("next"), url_for("overview.index"))
    if request.method != "POST":
        return kept_form.log_in_page(target) if current_person() is None else redirect(target, 303)
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    user, wait = _authenticate(name, password)
    if wait:
        return kept_form.log_in_page(target, name, _too_many(wait)), 429, {"Retry-After": str(wait)}
    if user is None:
        return kept_form.log_in_page(target, name, WRONG), 422
    _begin(user)
    return _remember_browser(user, kept_form.go_on(target))


@pages.route("/reauth", methods=["GET", "POST"])
@needs("viewer")
def confirm() -> ResponseReturnValue:
    """Confirm the password before a sensitive page."""
    problem, status, headers = "", 200, dict[str, str]()
    target = local_path(request.values.get("next"), url_for("account.show"))
    if request.method == "POST":
        problem, status, headers = confirm_password(request.form.get("password", ""))
        if not problem:
            return kept_form.go_on(target)
    return kept_form.confirm_page(target, problem), status, headers


def confirm_password(password: str) -> tuple[str, int, dict[str, str]]:
    """Renew the session if this is the user's password. Else return an error with its status and headers."""
    person = this_person()
    user, wait = _authenticate(person.name, password, "confirm", person.actor)
    if wait:
        return _too_many(wait), 429, {"Retry-After": str(wait)}
    if user is None or user.id != person.user_id:
        return "Wrong password. Try again.", 422, {}
    with writing() as database:
        audit.note(database, "confirm", [f"user:{person.name}"], person.actor)
    renew_as_fresh()
    return "", 200, {}


def renew_as_fresh() -> None:
    """After a password confirmation: give the session a new id and mark it fresh."""
    person = this_person()
    person.session_id = session[SESSION_ID] = sessions.confirm(person.session_id)
    person.fresh = True


def _too_many(wait: int) -> str:
    return f"Too many attempts. Wait {plural(wait, 'second')}, then try again."


def _authenticate(
    name: str, password: str, verb: str = "sign_in", actor: str = "anonymous"
) -> tuple[Optional[User], int]:
    """The user if name and password are right. Else None, and the seconds to wait after too many tries."""
    keys = _failures_count_for(name)
    wait = login_throttle.admit(keys)
    if wait:
        return None, max(1, round(wait + 0.5))
    with reading() as database:
        user = users.authenticate(database, name, password)
        known = user is not None or users.find(database, name) is not None
    if user is not None:
        login_throttle.forgive(keys)
        return user, 0
    with writing() as database:  # an unknown name may be a password typed into the wrong field
        subject = f"user:{name}" if known else "user"
        audit.note(database, verb, [subject], actor, outcome="refused")
    return None, 0


def _failures_count_for(name: str) -> list[str]:
    """Where failed tries are counted: for a browser that the owner has used before, this browser alone. For others, the
    address and the account, so that an attacker does not lock out the owner's browsers."""
    strangers = [login_throttle.address(address()), login_throttle.account(name)]
    try:
        cookie = request.cookies.get(_cookie_name("_known"), "")
        user_id, known_name, device = _known_browsers().loads(cookie, max_age=KNOWN_LIFE_SECONDS)
    except (BadData, ValueError, TypeError):
        return strangers
    return [login_throttle.browser(user_id, device)] if known_name == name else strangers


def _known_browsers() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.secret_key or b"", salt="known browser")


def _begin(user: User) -> None:
    session_id = sessions.begin(user, address(), request.headers.get("User-Agent", ""))
    session.clear()  # drop everything of the anonymous session, also its CSRF token
    session.permanent = True
    session[SESSION_ID] = session_id
    g.person = Person(user, session_id)


def _remember_browser(user: User, response: Response) -> Response:
    response.set_cookie(
        _cookie_name("_known"),
        _known_browsers().dumps([user.id, user.name, secrets.token_hex(8)]),
        max_age=KNOWN_LIFE_SECONDS,
        path=cookie_path(),
        httponly=True,
        samesite="Lax",
        secure=is_public_https(),
    )
    return response


@pages.post("/logout")
@needs("viewer")
def log_out() -> Response:
    person = this_person()
    sessions.end(person.session_id, person.name)
    session.clear()
    g.person = None
    response = redirect(url_for("sessions.log_in"), 303)
    # Not cookies: those of other programs stay. With a path, the storage of this host is not ours alone.
    response.headers["Clear-Site-Data"] = '"cache"' if request.script_root else '"cache", "storage"'
    return response


@pages.route("/setup/<token>", methods=["GET", "POST"])
def set_up(token: str) -> ResponseReturnValue:
    """The one-time link that creates the first admin. Opening it does not use it up."""
    if request.method != "POST":  # GET and HEAD
        with reading() as database:
            good = users.setup_link_is_good(database, token)
        return _set_up_page(token) if good else _spent_link()
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    errors = {field: capitalize(text) for field, text in users.problems(name, password).items()}
    if password != request.form.get("again", ""):
        errors["again"] = "The passwords do not match."
    made = False
    if not errors:
        try:
            made = users.set_up(token, name, password)
        except users.AccountError as error:
            errors[error.field] = capitalize(str(error))
    if errors:
        with reading() as database:
            good = users.setup_link_is_good(database, token)
        return (_set_up_page(token, name, errors), 422) if good else _spent_link()
    if not made:
        return _spent_link()
    response = redirect(url_for("overview.index"), 303)
    with reading() as database:
        user = users.authenticate(database, name, password)
    if user is not None:
        _begin(user)
        _remember_browser(user, response)
    flash(f"Welcome, {name}. You're all set.", "success")
    return response


def _set_up_page(token: str, name: str = "", errors: Optional[dict[str, str]] = None) -> str:
    """After an error, with what was typed; with the passwords if nothing is wrong with them."""
    errors = errors or {}
    kept = not errors.keys() & {"password", "again"}
    typed = {field: request.form.get(field, "") if kept else "" for field in ("password", "again")}
    values = {"token": token, "name": name, "errors": errors, "typed": typed, "rule": users.NAME_RULE}
    return render_template("sessions/set_up.html", **values, shortest=users.SHORTEST)


def _spent_link() -> ResponseReturnValue:
    with reading() as database:
        fresh = users.needs_setup(database)
    return render_template("sessions/spent.html", fresh=fresh), 404
