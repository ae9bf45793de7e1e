"""A form that a user sent after the session had ended: kept during the sign-in, then offered again with its values.

The form travels in a hidden field of the log-in page, signed, so that only a form that came to this console is offered.
It is sent again only when the user presses the button. Secrets are dropped; nothing is stored here or in cookies.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from flask import Response, current_app, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeTimedSerializer

from webapp.accounts import users
from webapp.console.frame.person import current_person
from webapp.db.engines import reading
from webapp.lib.text import capitalize, unix_lines
from webapp.web.request_info import came_from, is_own_url, local_path, requested_path

FIELD = "kept_form"
LIFE_SECONDS = 3600
LONGEST = 300_000  # bytes of a form that is kept
SECRETS = frozenset({"password", "again", "current", "url"})  # the URL of a channel is a secret as a whole
# Fields that the user did not type. A form with only these is a button: it is on the page that the user returns to.
UNTYPED = frozenset({"csrf_token", FIELD, "back", "at", "next", "seen", "env_of", "form_key", "confirmed", "username"})


class KeptForm(NamedTuple):
    """A form: where it goes, and its fields."""

    path: str
    fields: list[tuple[str, str]]

    @property
    def typed(self) -> list[tuple[str, str]]:
        """Label and value of the fields that a user filled in. Another user may sign in, so `env` is not shown."""
        return [
            (capitalize(name.replace("_", " ")), "is kept, not shown" if name == "env" else unix_lines(value))
            for name, value in self.fields
            if value and name not in UNTYPED
        ]


def keep() -> str:
    """The form of this request as signed text; '' if there is nothing to keep."""
    if request.mimetype != "application/x-www-form-urlencoded" or (request.content_length or 0) > LONGEST:
        return ""
    if not _is_from_own_page() or "confirmed" in request.form:
        return ""
    dropped = SECRETS | {"csrf_token", FIELD}
    fields = [(name, value) for name, value in request.form.items(multi=True) if name not in dropped]
    form = KeptForm(requested_path(), fields)
    return str(_signer().dumps(form)) if form.typed else ""


def _is_from_own_page() -> bool:
    """Whether the browser says so. Else another site could have its values offered."""
    origin = request.headers.get("Origin")
    return is_own_url(origin) if origin else request.headers.get("Sec-Fetch-Site") == "same-origin"


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.secret_key or b"", salt="kept form")


def _read(text: str) -> Optional[KeptForm]:
    try:
        path, fields = _signer().loads(text, max_age=LIFE_SECONDS)
    except BadData:
        return None
    return KeptForm(local_path(path, url_for("overview.index")), [(name, value) for name, value in fields])


def log_in_page(target: str, name: str = "", problem: str = "", kept: Optional[str] = None) -> str:
    """`kept`: the text of `keep`; by default the one that this request has sent."""
    kept = request.form.get(FIELD, "") if kept is None else kept
    with reading() as database:
        fresh = users.needs_setup(database)
    values = {"target": target, "name": name, "problem": problem, "fresh": fresh, "kept": kept}
    return render_template("sessions/log_in.html", **values)


def confirm_page(target: str, problem: str = "", kept: Optional[str] = None) -> str:
    """Ask for the password again, before a sensitive page."""
    kept = request.form.get(FIELD, "") if kept is None else kept
    return render_template("sessions/confirm.html", target=target, problem=problem, kept=kept)


def go_on(target: str) -> Response:
    """After the sign-in: offer the form that this request has kept, else go to the page."""
    form = _read(request.form.get(FIELD, ""))
    return redirect(target, 303) if form is None else _offer(form, target)  # type: ignore[return-value]


def offer_again() -> Optional[ResponseReturnValue]:
    """A form with the CSRF token of an earlier session, from a user who is signed in: offer it with the new token."""
    form = _read(keep()) if current_person() is not None else None
    return None if form is None else (_offer(form, came_from(url_for("overview.index"))), 400)


def _offer(form: KeptForm, back: str) -> Response:
    return make_response(render_template("sessions/kept_form.html", form=form, back=back))
