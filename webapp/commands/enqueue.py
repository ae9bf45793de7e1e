"""`enqueue`: submits one job from JSON or options, or many from JSON lines. `core/job_spec.py` has the rules."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.exit_codes import ExitCode, Failure, code_of
from webapp.commands.shared.core import actor, as_utf8, core, plain_database
from webapp.commands.shared.job_options import job_options
from webapp.commands.shared.output import local_time, progress_bars, say, span
from webapp.core import job_spec
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import FieldError, JobSpec, KeyTaken, SpecError
from webapp.lib import clock
from webapp.lib.text import BYTE_ORDER_MARK, plural, unix_lines

if TYPE_CHECKING:
    from rich.progress import Progress

    from webapp.core.flow.batches import Batch

SHOWN_ERRORS = 20
PROGRESS_MIN_LINES = 100
QUOTING = (
    "The shell seems to have removed the quotes. "
    "Use --command, or in cmd and PowerShell put a backslash before each inner quote: "
    r'"{\"command\": \"echo hello\"}" (PowerShell: in single quotes).'
)
Tick = Callable[[int], None]


@click.command(
    epilog="""\b
Examples:
  manage.py enqueue '{"id":"job1","command":"echo hello","max_retries":2}'
  manage.py enqueue --command 'tar czf /tmp/home.tgz ~' --queue backup --timeout 10m
  manage.py enqueue --command ./train.sh --here --requires gpu --requires host:web-1
  manage.py enqueue --command ./report.sh --cwd /srv/app --run-at 08:00
  manage.py enqueue --file jobs.jsonl
  manage.py enqueue --command ./report.sh --after import-1 --after import-2:finish
  manage.py enqueue --file jobs.jsonl --batch nightly-7 --on-done mail.json --wait
  generate-jobs | manage.py enqueue -
  manage.py enqueue --command ./sync.sh --unique sync --unique-while waiting --on-conflict return

Keys of a job: id command queue requires priority delay run_at max_retries timeout cwd env notify limits unique
  retry after
""",
)
@click.argument("job", nargs=-1)
@click.option("--file", "path", metavar="FILE", help="Read one JSON object per line. All jobs are stored, or none.")
@click.option("--command", help="Shell command to run, instead of JSON.")
@job_options
@click.option("--here", is_flag=True, help="Run in the current folder. In JSON: each job without a cwd.")
@click.option("--batch", "name", metavar="NAME", help="Put the jobs into this batch.")
@click.option("--open", "is_open", is_flag=True, help="Leave a new batch open for more jobs, until `batch close`.")
@click.option(
    "--on-done", metavar="FILE", help="Enqueue the job in this JSON file when all jobs of the batch have ended."
)
@click.option("--on-death", metavar="FILE", help="Enqueue the job in this JSON file when the first of them is dead.")
@click.option(
    "--wait", is_flag=True, help="Wait until all jobs have completed. Ends with 1 as soon as one is dead or cancelled."
)
@click.option("--exists-ok", is_flag=True, help="If a job with this ID exists, leave it unchanged and print the ID.")
def enqueue(
    job: tuple[str, ...],
    path: Optional[str],
    command: Optional[str],
    here: bool,
    wait: bool,
    exists_ok: bool,
    name: Optional[str],
    is_open: bool,
    on_done: Optional[str],
    on_death: Optional[str],
    **options: Any,
) -> int:
    """Submit JOB, a JSON object, and print its ID.

    With '-' it reads many jobs from standard input, one JSON object per line. The exit code is 3 if an ID is taken.
    """
    options = {name: value for name, value in options.items() if value not in (None, ())}
    if sum((bool(job), path is not None, command is not None)) != 1:
        raise click.UsageError("Give one of: a JSON object, '-', --file, or --command.")
    if command is None and options:
        raise click.UsageError("--id, --queue and so on work only with --command. In JSON they are keys of the object.")
    if len(job) > 1:
        raise click.UsageError(f"expected one argument with the job, got {len(job)}. {QUOTING}")
    if here and "cwd" in options:
        raise click.UsageError("Give --here or --cwd, not both.")
    folder = _folder(".", "--here") if here else None
    starts = read_start(options) if "run_at" in options else None
    batch = _batch(name, is_open, on_done, on_death)
    if path is not None or job == ("-",):
        ids = _enqueue_many(path or "-", folder, exists_ok, batch)
    else:
        spec = _from_argument(as_utf8(job[0])) if command is None else from_options(as_utf8(command), options)
        ids, found = _store([_in_folder(spec, folder)], exists_ok, batch)
        if starts is not None and starts > clock.now() and not found:
            say(f"Starts {local_time(starts)}, in {span(starts)}.")
        _print_ids(ids)
    if not wait:
        return 0
    from webapp.commands.shared.waiting import wait_for_jobs

    with core():
        return wait_for_jobs(ids, None)


def _store(
    specs: Sequence[JobSpec], exists_ok: bool, batch: Optional[Batch], stored: Optional[Tick] = None
) -> tuple[list[str], dict[str, str]]:
    """Store jobs; return all ids, and the states of jobs that already existed."""
    from webapp.core import trace_context
    from webapp.core.enqueue import enqueue as store

    found: dict[str, str] = {}
    held: dict[int, Holder] = {}
    traced = trace_context.carried_by(specs, os.environ.get(trace_context.VARIABLE))
    with plain_database() as database:
        ids = store(
            database,
            traced,
            actor(),
            batch=batch,
            stored=stored,
            found=found if exists_ok else None,
            held=held,
        )
    for warning in job_spec.warnings(specs):
        say(f"Warning: {warning}")
    if found:
        one = next(iter(found))
        more = f" and {plural(len(found) - 1, 'other job')}" if len(found) > 1 else ""
        say(f"Already exists: {one} ({found[one]}){more}. Left unchanged.")
    tell_holders(held)
    return ids, {**found, **{ids[place]: holder.state for place, holder in held.items()}}


def tell_holders(held: Mapping[int, Holder]) -> None:
    """Say which jobs were not stored because of their unique keys."""
    for holder in list(held.values())[:SHOWN_ERRORS]:
        say(f"Not stored: its unique key {holder.key!r} {holder.text}.")
    if len(held) > SHOWN_ERRORS:
        say(f"And {len(held) - SHOWN_ERRORS:,} more.")


def _batch(name: Optional[str], is_open: bool, on_done: Optional[str], on_death: Optional[str]) -> Optional[Batch]:
    if name is None:
        if is_open or on_done is not None or on_death is not None:
            raise click.UsageError("--open, --on-done and --on-death work only with --batch.")
        return None
    return read_batch(name, is_open, on_done, on_death)


def read_batch(name: str, is_open: bool, on_done: Optional[str], on_death: Optional[str]) -> Batch:
    """A batch with callbacks from files. Raises SpecError and ClickException."""
    from webapp.core.flow import batches

    given = {"on_done": on_done, "on_death": on_death}
    callbacks = {field: _load(path, field) for field, path in given.items() if path is not None}
    return batches.read({"name": as_utf8(name), "open": is_open, **callbacks})


def _load(path: str, field: str) -> Any:
    try:
        return job_spec.load_json("\n".join(_read_lines(path)))
    except SpecError as error:
        raise click.ClickException(f"{field}: {path}: {error}") from None


def read_start(options: dict[str, Any]) -> Optional[int]:
    """Give --run-at the zone of this machine. Return the time if it had no zone."""
    with suppress(ValueError, OverflowError):
        clock.parse_iso(options["run_at"])
        return None
    try:
        starts = clock.parse_local(options["run_at"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--run-at") from None
    options["run_at"] = clock.to_iso(starts)
    return starts


def _folder(path: str, option: str) -> str:
    try:
        return job_spec.read_folder(as_utf8(os.path.abspath(os.path.expanduser(path))))
    except FileNotFoundError:
        raise click.BadParameter("the current folder no longer exists.", param_hint=option) from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _in_folder(spec: JobSpec, folder: Optional[str]) -> JobSpec:
    return spec if folder is None or spec.cwd is not None else spec._replace(cwd=folder)


def from_options(command: str, options: Mapping[str, Any]) -> JobSpec:
    """The job of a command with values of `job_options`. Raises SpecError and BadParameter."""
    return job_spec.parse({"command": command, **fields_of(options)})


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job from values of `job_options`. Raises BadParameter."""
    found = dict(options)
    if "requires" in found:
        found["requires"] = ",".join(found["requires"])
    for name in {"notify", "limits"} & found.keys():
        found[name] = list(found[name])
    found.update(_unique_of(found))
    if "retry" in found:
        is_json = len(found["retry"]) == 1 and found["retry"][0].lstrip().startswith("{")
        found["retry"] = as_utf8(found["retry"][0]) if is_json else list(map(as_utf8, found["retry"]))
    if "after" in found:
        found["after"] = ",".join(found["after"])
    if "cwd" in found:
        found["cwd"] = _folder(found["cwd"], "--cwd")
    if "env" in found:
        try:
            found["env"] = job_spec.read_env(map(as_utf8, found["env"]))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--env") from None
    return found


def _unique_of(options: dict[str, Any]) -> dict[str, Any]:
    """The field `unique` of the options for it, which this takes out."""
    given = {"while": options.pop("unique_while", None), "on_conflict": options.pop("on_conflict", None)}
    if "unique" in options:
        return {"unique": {"key": as_utf8(options["unique"]), **given}}
    if any(given.values()):
        raise click.UsageError("--unique-while and --on-conflict work only with --unique.")
    return {}


def _from_argument(text: str) -> JobSpec:
    try:
        return job_spec.parse_json(text)
    except SpecError as error:
        if "invalid JSON" not in str(error):
            raise
        bare = text.strip().strip("'")
        quotes_lost = (bare.startswith("{") and '"' not in bare) or text.strip().startswith("'")
        hint = QUOTING if quotes_lost else "" if bare.startswith("{") else "For a shell command: --command 'echo hi'."
        raise click.ClickException(f"{error} {hint}".rstrip()) from None


# --- many ------------------------------------------------------------------------------------------------------------


def _enqueue_many(path: str, folder: Optional[str], exists_ok: bool, batch: Optional[Batch]) -> list[str]:
    started = time.monotonic()
    lines = _read_lines(path)
    with _progress(len(lines)) as (read, stored):
        specs, numbers = _parse_lines(lines, read)
        if not specs and batch is None:
            say("No jobs: all lines are blank.")
            return []
        try:
            ids, found = _store([_in_folder(spec, folder) for spec in specs], exists_ok, batch, stored)
        except SpecError as error:
            if not any(one.place is not None for one in error.errors):
                raise
            names = {place: f"line {number}" for place, number in enumerate(numbers)}
            faults = list(error.errors)
            if isinstance(error, KeyTaken):
                faults = [
                    one._replace(message=f"{holder.key!r} {holder.told(names)}.")
                    for one, holder in zip(error.errors, error.holders)
                ]
            raise _refusal([(numbers[one.place or 0], one) for one in faults], code_of(error)) from None
    if ids:
        _print_ids(ids)
    took = time.monotonic() - started
    number = len(ids) - sum(one in found for one in ids)
    say(f"Enqueued {plural(number, 'job')} in {took:.1f} s ({number / took:,.0f}/s).")
    return ids


def _print_ids(ids: Sequence[str]) -> None:
    try:
        click.echo("\n".join(ids))
    except BrokenPipeError:
        raise
    except OSError as error:
        error.strerror = f"{error.strerror}. {plural(len(ids), 'job')} stored"
        raise


def _read_lines(path: str) -> list[str]:
    """Read the lines of a file or of stdin. LF, CRLF and CR end a line; JSON may contain other separators."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}.") from None
    try:
        return unix_lines(job_spec.decode(data)).rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise click.ClickException(f"line {line}: this is not UTF-8 text. Nothing was stored.") from None


def _parse_lines(lines: Sequence[str], read: Tick) -> tuple[list[JobSpec], list[int]]:
    """Return all jobs and their line numbers. Raises ClickException with all errors of all lines."""
    specs: list[JobSpec] = []
    numbers: list[int] = []
    errors: list[tuple[int, FieldError]] = []
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if number % 1000 == 0:
            read(number)
        if not line.removeprefix(BYTE_ORDER_MARK).strip():  # files may have been put together
            continue
        try:
            spec = job_spec.parse_json(line)
        except SpecError as error:
            errors += [(number, one) for one in error.errors]
            continue
        specs.append(spec)
        numbers.append(number)
        if spec.id is not None and first.setdefault(spec.id, number) != number:
            errors.append((number, FieldError("id", f"{spec.id!r} is already used in line {first[spec.id]}.")))
    read(len(lines))
    if errors:
        raise _refusal(errors)
    return specs, numbers


def _refusal(errors: Sequence[tuple[int, FieldError]], code: int = ExitCode.ERROR) -> click.ClickException:
    texts = [f"line {line}: {f'{one.field}: ' if one.field else ''}{one.message}" for line, one in errors]
    more = [f"and {len(errors) - SHOWN_ERRORS:,} more"] if len(errors) > SHOWN_ERRORS else []
    return Failure(code, "\n".join(["nothing was stored.", *texts[:SHOWN_ERRORS], *more]))


@contextmanager
def _progress(total: int) -> Iterator[tuple[Tick, Tick]]:
    """Yield two functions that take the number of lines read and of jobs stored. On a terminal they move bars."""
    with nullcontext() if total < PROGRESS_MIN_LINES else progress_bars(transient=True) as bars:
        if bars is None:
            yield (lambda _: None), (lambda _: None)
        else:
            yield _tick(bars, "read", total), _tick(bars, "stored", total)


def _tick(bars: Progress, name: str, total: int) -> Tick:
    task = bars.add_task(name, total=total, note="", start=False)

    def advance(done: int) -> None:
        bars.start_task(task)
        speed = bars.tasks[task].speed
        bars.update(task, completed=done, note=f"{speed:,.0f}/s" if speed else "")

    return advance
