"""What a person sets for this browser: theme, refresh, keys; kept in cookies, so that pages obey without JavaScript."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.nav import nav_of
from webapp.console.roles import needs
from webapp.console.templating import THEMES, TICKS
from webapp.db import reading

pages = Blueprint("account", __name__)

A_YEAR = 365 * 86400
CHOICES = {"theme": THEMES, "tick": TICKS, "keys": ("on", "off")}


@pages.get("/account")
def show() -> ResponseReturnValue:
    with reading() as session:
        nav = nav_of(session)
    return render_template("account/page.html", nav=nav)


@pages.post("/account")
@needs("viewer")
def choose() -> ResponseReturnValue:
    response = redirect(url_for("account.show"), 303)
    for name, allowed in CHOICES.items():
        value = request.form.get(name)
        if value in allowed:
            response.set_cookie(name, value, max_age=A_YEAR, samesite="Lax")  # app.js reads and writes them too
    flash("Saved for this browser.", "success")
    return response
