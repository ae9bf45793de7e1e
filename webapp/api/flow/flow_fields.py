"""Fields of jobs about limits, unique keys, retry rules, jobs before them and reports, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from marshmallow import fields as ma

from webapp.api import fields
from webapp.core.flow import retry_rules, unique_keys
from webapp.core.flow.after import WANTS
from webapp.jobs.flow import limit_use

RETRY: Mapping[str, Any] = {
    "description": "what to do after a failed attempt: an object, or lines such as `exit 75: wait`; default: those of "
    "the queue, else the settings",
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "rules": {
                    "description": "the first matching rule applies: `exit` (codes and ranges), `signal` or `output` "
                    "(a pattern), or none for any failure; `do`: retry, wait, bury or success",
                    "type": ["array", "null"],
                    "items": {"type": "object"},
                    "maxItems": retry_rules.MAX_RULES,
                },
                "backoff": {
                    "description": "`kind`: exponential, linear or fixed; `base`, `cap`: seconds; `jitter`: 0 to 1",
                    "type": ["object", "null"],
                },
            },
            "additionalProperties": False,
        },
        {"type": "array", "items": {"type": "string"}},
        {"type": "string"},
        {"type": "null"},
    ],
    "examples": [{"rules": [{"exit": [75], "do": "wait"}, {"exit": ["64-78"], "do": "bury"}]}],
}
UNIQUE: Mapping[str, Any] = {
    "description": "at most one job holds this key; a text is a key with the defaults",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": unique_keys.MAX_KEY},
        {
            "type": "object",
            "properties": {
                "key": {"type": "string", "minLength": 1, "maxLength": unique_keys.MAX_KEY},
                "while": {
                    "description": "waiting: until its first start; unfinished (default): until its end; or "
                    "seconds, or a text such as 1h",
                    "type": ["string", "number", "null"],
                },
                "on_conflict": {
                    "description": "refuse (default): 409 with the holder; return: the holder's id; "
                    "replace: cancel a waiting holder",
                    "enum": [*unique_keys.ON_CONFLICT, None],
                },
            },
            "required": ["key"],
            "additionalProperties": False,
        },
        {"type": "null"},
    ],
    "examples": [{"key": "report-7", "while": "1h", "on_conflict": "return"}],
}
# An edit only refuses a key that another job holds.
UNIQUE_OF_EDIT = deepcopy(dict(UNIQUE))
del UNIQUE_OF_EDIT["anyOf"][1]["properties"]["on_conflict"]


class Report(fields.Answer):
    attempt = fields.integer("the attempt that wrote it")
    progress = fields.number("0 to 1", null=True)
    note = fields.text("what it does", null=True)
    result = ma.Dict(required=True, allow_none=True, metadata={"description": "what it found"})
    retry_after = fields.number("seconds to wait before the retry", null=True)
    fault = fields.text("why part of the report was ignored", null=True)
    updated_at = fields.time("when this was stored")


class Block(fields.Answer):
    reason = fields.text("why the limit keeps it from starting", enum=list(limit_use.KINDS))
    key = fields.text("the key")
    text = fields.text("the reason, as a text")
    holders = fields.strings("ids of running jobs that hold the key, up to 20")
    opens_at = fields.time("when the rate allows the next start", null=True)
    first = fields.text("id of a job ahead that waits for the key", null=True)


class AfterJob(fields.Answer):
    job = fields.text("id of the job that it depends on")
    on = fields.text("how that must end", enum=list(WANTS))
    state = fields.text("its state; null: it was discarded", null=True)
