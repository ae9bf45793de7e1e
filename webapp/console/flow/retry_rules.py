"""The retry rules of a queue: a form, what the rules would have done to the last failed attempts, and saving."""

from __future__ import annotations

from typing import Any, Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.frame import htmx
from webapp.console.frame.person import actor, needs
from webapp.core.flow.retry_rules import ACTIONS, RetryRules
from webapp.core.job_spec import SpecError
from webapp.db.engines import reading
from webapp.insight import retry_preview
from webapp.jobs import queue_actions, settings
from webapp.lib.text import capitalize, unix_lines

pages = Blueprint("retry_rules", __name__)


@pages.get("/queue/<name>/retry")
@needs("viewer")
def edit(name: str) -> ResponseReturnValue:
    with reading() as session:
        return _page(session, name, "\n".join(queue_actions.retry_rules_of(session, name).lines))


@pages.post("/queue/<name>/retry")
@needs("admin")
def change(name: str) -> ResponseReturnValue:
    """Show what the rules would have done; save them after that preview. 422 for rules with an error."""
    text, seen = (unix_lines(request.form.get(name, "")).strip() for name in ("retry", "seen"))
    problem, rules = "", None
    try:
        rules = queue_actions.read_rules(text)
    except SpecError as error:
        problem = capitalize(error.errors[0].message)
    if rules is not None and "seen" in request.form and seen == text:
        saved = queue_actions.set_retry_rules(name, rules, actor())
        words = f"Retry rules of queue {name} saved." if saved else "Nothing changed."
        return htmx.done(words, back=url_for("retry_rules.edit", name=name), leave=True)
    with reading() as session:
        return _page(session, name, text, problem, rules), 422 if problem else 200


def _page(session: Session, name: str, text: str, problem: str = "", rules: Optional[RetryRules] = None) -> str:
    """`rules`: those in the form, to preview on the last attempts."""
    known = queue_actions.retry_rules_of(session, name)
    preview: Any = retry_preview.of(session, rules, name) if rules is not None else None
    return htmx.form_page(
        "queue_retry/page.html",
        session,
        name=name,
        text=text,
        problem=problem,
        rules=rules,
        known=known,
        preview=preview,
        most=retry_preview.MOST,
        actions=ACTIONS,
        defaults=settings.load(session),
    )
