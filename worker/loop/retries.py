"""What follows a failed attempt: the retry rules of the job, else of its queue, else the settings."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Optional

from webapp.core import backoff
from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import Failed
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.lib.durations import about
from webapp.lib.text import plain_tail
from worker.attempt import AttemptResult

log = logging.getLogger("queuectl.worker")

QUEUE_RULES = "SELECT name, retry FROM queues WHERE retry IS NOT NULL"
_TAIL = 4 * retry_rules.LAST_CHARACTERS  # bytes


def judge(
    ended: AttemptResult, settings: Settings, of_queues: Mapping[str, str]
) -> tuple[AttemptResult, Optional[float]]:
    """The result as the rules see it, and the seconds until the retry; None: no retry, whatever is left.

    `of_queues`: the rules of queues, as they are stored. Other results than failures stay as they are.
    """
    if ended.kind != "failed":
        return ended, 0.0
    claim = ended.claim
    failures, luck = claim.failures + 1, random.random()  # noqa: S311  spreads retries, keeps no secret
    told = ended.report.retry_after if ended.report is not None else None
    text = claim.retry or of_queues.get(claim.queue)
    if claim.queue == SYSTEM_QUEUE or (text is None and told is None):
        return ended, backoff.of_job(claim.queue, failures, settings, luck)
    rules = retry_rules.stored(text)
    rule = retry_rules.decide(rules, failed(ended.reason, ended.exit_code, ended.signal, ended.output.data))
    if rule is not None and rule.do == "success":
        ended = ended._replace(kind="completed", error=None, error_key=None)
        return ended._replace(rule=f"{_says(rule)}, so the attempt counts as completed"), 0.0
    if rule is not None and rule.do == "bury":
        return ended._replace(rule=f"{_says(rule)}, so the job is not retried"), None
    wait = retry_rules.wait_of(rules, rule, failures, settings, luck, told)
    if rule is not None:
        ended = ended._replace(rule=f"{_says(rule)}: {about(wait)} until a retry")
    return ended, wait


def failed(reason: str, exit_code: Optional[int], signal: Optional[int], output: bytes) -> Failed:
    """What rules look at."""
    return Failed(reason, exit_code, signal, plain_tail(output, _TAIL))


def _says(rule: retry_rules.Rule) -> str:
    return f"the rule is '{rule.text}'"


def log_trouble(ended: AttemptResult, state: Optional[str]) -> None:
    """Log a failed attempt; `state`: the new one of the job, None if the claim was lost."""
    claim = ended.claim
    facts = {"job": claim.id, "attempt": claim.attempt, "state": state, "reason": ended.reason}
    if state is None:
        log.warning("job %s: the claim was lost before attempt %d ended", claim.id, claim.attempt, extra=facts)
    else:
        text = "job %s: attempt %d failed (%s), now %s"
        log.info(text, claim.id, claim.attempt, ended.error, state, extra=facts)
