"""The shapes of requests and answers, for the OpenAPI document; queries and small bodies are read by them, too.

What a job may look like is judged by `jobspec`, by the same rules as on the command line: `JobRequest` only tells it.
The answers are shaped by `shapes` and `story`; a test holds that what stands here is what they give.
"""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from webapp.core.job_spec import COMMAND_LIMIT, MAX_DELAY, MAX_TIMEOUT, NAME, NAME_RULE, PATH_LIMIT
from webapp.core.labels import MOST
from webapp.core.states import STATES
from webapp.db.models import ATTEMPT_STATES
from webapp.insight.failure_groups import LONGEST_NOTE
from webapp.insight.fleet import MOST_WORKERS
from webapp.jobs.search import TYPED

MOST_LISTED = 500  # jobs of one page
MOST_NAMED = 500  # ids of one act
MOST_SUBMITTED = 1000  # jobs of one batch
LARGEST = 2**31 - 1
_LABEL = "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
NAME_PATTERN = f"^{_LABEL}$"
LABELS_PATTERN = rf"^[\s,]*{_LABEL}([\s,]+{_LABEL}){{0,{MOST - 1}}}[\s,]*$"
WORKER_STATES = ("running", "quiet", "stopping", "silent", "stopped", "expired")


def _named(value: str) -> None:
    if not NAME.match(value):
        raise ValidationError(f"is not allowed; expected {NAME_RULE}.")


def _plain(value: str) -> None:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValidationError("contains a character that no text has.")


def _name(about: str, **options: Any) -> fields.String:
    return fields.String(validate=_named, metadata={"description": about, "pattern": NAME_PATTERN}, **options)


def _text(about: str, *, null: bool = False, **metadata: Any) -> fields.String:
    return fields.String(required=True, allow_none=null, metadata={"description": about, **metadata})


def _whole(about: str, *, null: bool = False) -> fields.Integer:
    return fields.Integer(required=True, allow_none=null, metadata={"description": about})


def _number(about: str, *, null: bool = False) -> fields.Float:
    return fields.Float(required=True, allow_none=null, metadata={"description": about})


def _truth(about: str) -> fields.Boolean:
    return fields.Boolean(required=True, metadata={"description": about})


def _time(about: str, *, null: bool = False) -> fields.String:
    return _text(about, null=null, format="date-time")


def _many(inner: Any, about: str) -> fields.List[Any]:
    return fields.List(inner, required=True, metadata={"description": about})


class Answer(Schema):
    """An answer: a program must bear members that it does not know."""

    class Meta:
        unknown = EXCLUDE


# --- requests --------------------------------------------------------------------------------------------------------


class JobRequest(Schema):
    id = fields.String(
        allow_none=True, metadata={"description": f"{NAME_RULE}; made if missing", "pattern": NAME_PATTERN}
    )
    command = fields.String(
        required=True,
        metadata={
            "description": "what /bin/sh -c runs, up to 64 KiB",
            "minLength": 1,
            "maxLength": COMMAND_LIMIT,
            "examples": ["echo hello"],
        },
    )
    queue = fields.String(allow_none=True, metadata={"description": "default: `default`", "pattern": NAME_PATTERN})
    requires = fields.Raw(
        metadata={
            "description": "labels that its worker must all have, such as gpu or host:web-1; default: none",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "maxItems": MOST},
                {"type": "string", "pattern": LABELS_PATTERN, "description": "with commas or spaces between"},
                {"type": "null"},
            ],
            "examples": [["gpu"]],
        },
    )
    priority = fields.Integer(
        allow_none=True, metadata={"description": "higher first; default 0", "minimum": -100, "maximum": 100}
    )
    delay = fields.Float(
        allow_none=True, metadata={"description": "seconds until it is due", "minimum": 0, "maximum": MAX_DELAY}
    )
    run_at = fields.String(
        allow_none=True,
        metadata={"description": "when it is due, with a zone; not beside delay", "format": "date-time"},
    )
    max_retries = fields.Integer(
        allow_none=True,
        metadata={
            "description": "automatic retries after the first attempt; default: the setting",
            "minimum": 0,
            "maximum": 1000,
        },
    )
    timeout = fields.Float(
        allow_none=True,
        metadata={
            "description": "seconds that an attempt may run; default: the setting",
            "exclusiveMinimum": 0,
            "maximum": MAX_TIMEOUT,
        },
    )
    cwd = fields.String(
        allow_none=True,
        metadata={"description": "its folder, absolute; default: the workers' own", "maxLength": PATH_LIMIT},
    )
    env = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        allow_none=True,
        metadata={"description": "more environment variables"},
    )


class JobsRequest(Schema):
    jobs = fields.List(
        fields.Nested(JobRequest),
        required=True,
        metadata={"description": "all are stored, or none", "minItems": 1, "maxItems": MOST_SUBMITTED},
    )


class ListQuery(Schema):
    queue = _name("only jobs of this queue")
    q = fields.String(
        validate=[validate.Length(max=TYPED), _plain],
        metadata={"description": 'only jobs that match this search, such as `exit:127 since:2h "a phrase"`'},
    )
    limit = fields.Integer(
        load_default=50, validate=validate.Range(1, MOST_LISTED), metadata={"description": "jobs of a page"}
    )
    cursor = fields.String(metadata={"description": "where the page begins: `next` or `previous` of another"})


class JobQuery(ListQuery):
    state = fields.String(validate=validate.OneOf(STATES), metadata={"description": "only jobs in this state"})


class DeadQuery(ListQuery):
    group = _name("only jobs of this group")


class GroupQuery(Schema):
    sort = fields.String(
        load_default="last",
        validate=validate.OneOf(("last", "count")),
        metadata={"description": "`last`: by the newest death; `count`: by size; open ones stand first"},
    )
    page = fields.Integer(load_default=1, validate=validate.Range(1, MOST_LISTED), metadata={"description": "from 1"})
    limit = fields.Integer(
        load_default=25, validate=validate.Range(1, 100), metadata={"description": "groups of a page"}
    )


class OutputQuery(Schema):
    attempt = fields.Integer(
        validate=validate.Range(1, LARGEST), metadata={"description": "its number; default: the latest"}
    )
    stream = fields.String(
        load_default="both",
        validate=validate.OneOf(("both", "stdout", "stderr")),
        metadata={"description": "`both` as they came"},
    )


class WorkerQuery(Schema):
    ended = fields.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "those that ended in the last day, too"},
    )


class Which(Schema):
    """Jobs by their ids, or all that match."""

    ids = fields.List(
        _name("a job's id"), validate=validate.Length(1, MOST_NAMED), metadata={"description": "these jobs"}
    )
    all = fields.Boolean(
        truthy=[True], falsy=[False], metadata={"description": "true: all that match now, in small transactions"}
    )
    queue = _name("with all: only of this queue")
    q = fields.String(
        validate=[validate.Length(max=TYPED), _plain],
        metadata={"description": "with all: only those that match this search, however many jobs there are"},
    )

    @validates_schema(skip_on_field_errors=True)
    def _one_way(self, data: dict[str, Any], **_: Any) -> None:
        if bool(data.get("all")) == ("ids" in data):
            raise ValidationError('expected either "ids" or "all": true.')
        narrowed = [name for name in ("state", "queue", "group", "q") if name in data]
        if "ids" in data and narrowed:
            raise ValidationError('stands beside "all" only.', narrowed[0])


class WhichJobs(Which):
    state = fields.String(validate=validate.OneOf(STATES), metadata={"description": "with all: only in this state"})


class WhichDead(Which):
    group = _name("with all: only of this group")


class GroupRequest(Schema):
    """What is not given stays as it is."""

    note = fields.String(
        validate=[validate.Length(max=LONGEST_NOTE), _plain], metadata={"description": "for everybody; empty: none"}
    )
    owner = fields.String(validate=[validate.Length(max=64), _plain], metadata={"description": "a user; empty: nobody"})
    acknowledged = fields.Boolean(
        truthy=[True], falsy=[False], metadata={"description": "somebody sees to it; one more death ends that"}
    )


class WishRequest(Schema):
    wish = fields.String(
        required=True,
        validate=validate.OneOf(("run", "quiet", "stop")),
        metadata={"description": "`quiet`: take no more jobs; `run`: take jobs again; `stop`: finish, then end"},
    )


class ScaleRequest(Schema):
    workers = fields.Integer(
        required=True,
        strict=True,
        validate=validate.Range(0, MOST_WORKERS),
        metadata={"description": "how many workers it is to have; 0: none until it is scaled up"},
    )


class SettingRequest(Schema):
    value = fields.Raw(
        required=True, metadata={"description": "a number within the setting's bounds", "type": "number"}
    )


# --- answers ---------------------------------------------------------------------------------------------------------


class Job(Answer):
    id = _text("its id")
    command = _text("what the shell runs")
    queue = _text("its queue")
    requires = _many(fields.String(), "labels that its worker must all have")
    priority = _whole("higher first")
    state = _text("where it stands", enum=list(STATES))
    attempts = _whole("attempts made")
    max_retries = _whole("automatic retries after the first attempt")
    run_at = _time("when it is or was due")
    timeout = _number("seconds; null: the setting decides", null=True)
    cwd = _text("its folder; null: the workers' own", null=True)
    env = fields.Dict(
        keys=fields.String(),
        values=fields.String(allow_none=True),
        required=True,
        metadata={"description": "its variables; the scope read sees null for each value"},
    )
    created_at = _time("when it was submitted")
    started_at = _time("when the latest attempt began", null=True)
    finished_at = _time("when it ended for good", null=True)
    exit_code = _whole("of the latest ended attempt", null=True)
    last_error = _text("of the latest ended attempt", null=True)


class Attempt(Answer):
    number = _whole("from 1")
    state = _text("how it ended", enum=list(ATTEMPT_STATES))
    started_at = _time("when it began")
    finished_at = _time("when it ended")
    exit_code = _whole("null: it did not exit by itself", null=True)
    signal = _whole("that ended it", null=True)
    reason = _text("exit, signal, timeout …")
    error = _text("the same for a person", null=True)
    worker = _text("which worker ran it")
    cpu_seconds = _number("user and system", null=True)
    peak_memory = _whole("bytes, of its largest process", null=True)
    truncated = _truth("whether output was left out")


class Event(Answer):
    at = _time("when")
    verb = _text("what")
    actor = _text("by whom: person:…, token:…, worker:…, rule:…")
    subject = _text("to what")
    detail = fields.Dict(required=True, allow_none=True, metadata={"description": "more, by verb"})


class TimelineEntry(Answer):
    at = _time("when")
    verb = _text("what")
    actor = _text("by whom")
    attempt = _whole("where one began or ended", null=True)
    text = _text("its error")


class WholeJob(Job):
    attempt_history = _many(fields.Nested(Attempt), "its ended attempts, oldest first")
    events = _many(fields.Nested(Event), "what was done to it beside its attempts")
    timeline = _many(fields.Nested(TimelineEntry), "all that happened to it, oldest first")


class JobPage(Answer):
    jobs = _many(fields.Nested(Job), "in the order that fits the state")
    next = _text("the cursor of the next page", null=True)
    previous = _text("the cursor of the page before", null=True)
    search_capped = _truth("whether the search stopped before the page was full; `next` goes on from there")


class Ids(Answer):
    ids = _many(fields.String(), "in the order of the request")


class Refused(Answer):
    id = _text("which")
    state = _text("that it is in; null: there is none", null=True)


class Outcome(Answer):
    moved = _many(fields.String(), "ids of jobs that were moved")
    asked = _many(fields.String(), "ids of running jobs that were told to stop")
    refused = _many(fields.Nested(Refused), "jobs in a state that does not allow it")


class Act(Answer):
    id = _whole("its number")
    verb = _text("what is done")
    what = _text("to which jobs, in words")
    state = _text(
        "running: a supervisor carries it on; waiting: for its canary", enum=["waiting", "running", "done", "stopped"]
    )
    undoes = _whole("the act that it takes back, if it is an undo", null=True)
    moved = _whole("jobs so far")
    skipped = _whole("jobs that somebody else moved first")
    actor = _text("who asked")
    created_at = _time("when it was asked")
    finished_at = _time("when it was done", null=True)


class ActAnswer(Answer):
    act = fields.Nested(Act, required=True)


class Group(Answer):
    key = _text("what its jobs have in common")
    count = _whole("dead letters; of large groups, as far as they were counted")
    count_is_more = _truth("whether there are more than that")
    first_death = _time("of those that lie here")
    last_death = _time("of those that lie here")
    example = _text("the id of the newest")
    command = _text("of the newest")
    error = _text("of the newest", null=True)
    open = _truth("false: somebody has acknowledged it, and none has died of it since")
    acknowledged_by = _text("who", null=True)
    note = _text("what people wrote")
    owner = _text("who sees to it", null=True)


class Groups(Answer):
    groups = _many(fields.Nested(Group), "open ones first")
    more = _truth("whether there is another page")
    capped = _truth("whether there are more than 500 groups: then those of the newest dead letters are listed")


class Worker(Answer):
    id = _text("its id")
    state = _text("what it does", enum=list(WORKER_STATES))
    alive = _truth("whether its heartbeat is younger than the lease")
    host = _text("its machine")
    pid = _whole("its process")
    slots = _whole("jobs at a time")
    queues = fields.List(fields.String(), required=True, allow_none=True, metadata={"description": "null: all"})
    labels = _many(fields.String(), "what jobs may require of it, its host's among them")
    jobs = _many(fields.String(), "ids of what it runs")
    jobs_completed = _whole("since its start")
    jobs_failed = _whole("since its start")
    started_at = _time("when it began")
    seen_at = _time("its last heartbeat")
    stopped_at = _time("when it ended", null=True)
    version = _text("of queuectl")
    supervisor = _text("its supervisor's id")
    cpu_seconds = _number("its own and that of its ended commands, since its start", null=True)
    memory = _whole("bytes, its own", null=True)


class Workers(Answer):
    workers = _many(fields.Nested(Worker), "oldest first")


class Supervisor(Answer):
    id = _text("its id")
    state = _text("unknown: it drains, or has just begun", enum=["running", "ending", "silent", "unknown"])
    host = _text("its machine")
    pid = _whole("its process", null=True)
    wanted = _whole("workers that it is to have; null: it cannot be scaled", null=True)
    workers = _many(fields.String(), "ids of those that it has")
    slots = _whole("of each of its workers")
    queues = fields.List(fields.String(), required=True, allow_none=True, metadata={"description": "null: all"})
    labels = _many(fields.String(), "what jobs may require of its workers, their host's among them")
    started_at = _time("when it began")
    version = _text("of queuectl")


class Supervisors(Answer):
    supervisors = _many(fields.Nested(Supervisor), "by machine, oldest first")


class Lane(Answer):
    requires = _many(fields.String(), "empty: any worker of the queue may take them")
    pending = _whole("jobs that wait, up to 10,000")
    pending_is_more = _truth("whether there are more than that")
    oldest_pending_seconds = _number("for how long the first one waits", null=True)


class Queue(Answer):
    name = _text("its name")
    paused = _truth("whether nothing new starts")
    paused_at = _time("since when", null=True)
    paused_by = _text("by whom", null=True)
    pending = _whole("jobs that wait, up to 10,000")
    pending_is_more = _truth("whether there are more than that")
    processing = _whole("jobs that run")
    oldest_pending_seconds = _number("for how long the first one waits", null=True)
    runs_per_minute = _number("runs that end in a minute, over the last five or since the first of them")
    drain_seconds = _number("about, until what waits has run at that rate; null: nothing waits or ends", null=True)
    waiting = _many(fields.Nested(Lane), "what waits, by what it requires")


class Queues(Answer):
    queues = _many(fields.Nested(Queue), "by name")


class Setting(Answer):
    key = _text("its name")
    value = _number("as it stands")
    default = _number("as it is if nobody changes it")
    lowest = _number("inclusive")
    highest = _number("inclusive")
    unit = _text("seconds, days …")
    help = _text("what it does")
    changed_at = _time("null: it stands at its default", null=True)
    changed_by = _text("who changed it last", null=True)


class Settings(Answer):
    settings = _many(fields.Nested(Setting), "all of them")


class Quantiles(Answer):
    p50 = _number("half took this at the most; within 5 %", null=True)
    p95 = _number("95 % did", null=True)
    p99 = _number("99 % did", null=True)


class LastHour(Answer):
    completed = _whole("runs that ended well")
    failed = _whole("runs that failed, whether or not they are retried")
    died = _whole("jobs that became dead letters")
    lost = _whole("runs whose worker died")
    wait_seconds = fields.Nested(Quantiles, required=True, metadata={"description": "from due to begun"})
    run_seconds = fields.Nested(Quantiles, required=True, metadata={"description": "from begun to ended"})


class Status(Answer):
    states = fields.Dict(
        keys=fields.String(), values=fields.Integer(), required=True, metadata={"description": "jobs in each state"}
    )
    workers = _many(fields.Nested(Worker), "those that run")
    oldest_pending_seconds = _number("for how long the first one waits", null=True)
    finished_last_minute = _whole("completed or dead, up to 20,000")
    finished_last_hour = _whole("completed or dead, up to 20,000")
    runs_per_minute = _number("runs that end in a minute, in all queues, as in a queue")
    last_hour = fields.Nested(LastHour, required=True, metadata={"description": "by whole minutes"})
    paused_queues = _many(fields.String(), "their names")


class Fault(Answer):
    field = _text("which; empty: the whole")
    place = _whole("of many, which, from 0", null=True)
    message = _text("what is wrong, and what is allowed")


class Problem(Answer):
    type = _text("an address on this server that explains the kind", format="uri-reference")
    title = _text("the kind, in words")
    status = _whole("as in the answer's first line")
    detail = _text("what happened this time")
    errors = fields.List(fields.Nested(Fault), metadata={"description": "each thing that is not allowed"})
    state = fields.String(allow_none=True, metadata={"description": "of a conflict: the state that it is in"})
    needs = fields.String(metadata={"description": "the scope that would be enough"})
