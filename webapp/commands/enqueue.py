"""`enqueue`: submits one job from JSON or options, or many from JSON lines. `core/job_spec.py` has the rules."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.shared.core import DURATION, actor, plain_database
from webapp.commands.shared.output import progress_bars, say
from webapp.core import job_spec
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.lib.text import plural

if TYPE_CHECKING:
    from rich.progress import Progress

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
  manage.py enqueue --command ./train.sh --requires gpu --requires host:web-1
  manage.py enqueue --file jobs.jsonl
  generate-jobs | manage.py enqueue -

Keys of a job: id command queue requires priority delay run_at max_retries timeout cwd env
""",
)
@click.argument("job", nargs=-1)
@click.option("--file", "path", metavar="FILE", help="Read one JSON object per line. All jobs are stored, or none.")
@click.option("--command", help="Shell command to run, instead of JSON.")
@click.option("--id", metavar="ID", help="Job ID (default: generated).")
@click.option("--queue", metavar="NAME", help="Queue (default: default).")
@click.option(
    "--requires",
    metavar="LABEL",
    multiple=True,
    help="Run only on workers with this label, such as gpu or host:web-1. Can be repeated.",
)
@click.option("--priority", type=int, help="From -100 to 100, higher first (default: 0).")
@click.option("--delay", **DURATION, help="Time to wait before the first attempt.")
@click.option("--run-at", metavar="TIME", help="Run at this time, such as 2030-01-31T08:00:00Z.")
@click.option("--max-retries", type=int, help="Retries after a failed first attempt.")
@click.option("--timeout", **DURATION, help="Time limit of each attempt.")
@click.option("--cwd", metavar="FOLDER", help="Working directory.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="Environment variable. Can be repeated.")
def enqueue(job: tuple[str, ...], path: Optional[str], command: Optional[str], **options: Any) -> None:
    """Submit JOB, a JSON object, and print its ID.

    With '-' it reads many jobs from standard input, one JSON object per line.
    """
    options = {name: value for name, value in options.items() if value not in (None, ())}
    if sum((bool(job), path is not None, command is not None)) != 1:
        raise click.UsageError("Give one of: a JSON object, '-', --file, or --command.")
    if command is None and options:
        raise click.UsageError("--id, --queue and so on work only with --command. In JSON they are keys of the object.")
    if len(job) > 1:
        raise click.UsageError(f"expected one argument with the job, got {len(job)}. {QUOTING}")
    if path is not None or job == ("-",):
        _enqueue_many(path or "-")
        return
    spec = _from_argument(job[0]) if command is None else _from_options(command, options)
    _print_ids(_store([spec]))


def _store(specs: Sequence[JobSpec], stored: Optional[Tick] = None) -> list[str]:
    from webapp.core.enqueue import enqueue as store

    with plain_database() as database:
        return store(database, specs, actor(), stored=stored)


def _from_options(command: str, options: dict[str, Any]) -> JobSpec:
    if "requires" in options:
        options["requires"] = ",".join(options["requires"])
    if "cwd" in options:
        options["cwd"] = os.path.abspath(os.path.expanduser(options["cwd"]))
    env: dict[str, str] = {}
    for pair in options.pop("env", ()):
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} has no '='; expected NAME=VALUE.", param_hint="--env")
        if name in env:
            raise click.BadParameter(f"{name!r} is set twice; give each variable once.", param_hint="--env")
        env[name] = value
    return job_spec.parse({"command": command, **options, "env": env or None})


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


def _enqueue_many(path: str) -> None:
    started = time.monotonic()
    lines = _read_lines(path)
    with _progress(len(lines)) as (read, stored):
        specs, numbers = _parse_lines(lines, read)
        if not specs:
            say("No jobs: all lines are blank.")
            return
        try:
            ids = _store(specs, stored)
        except SpecError as error:
            raise _refusal([(numbers[one.place or 0], one) for one in error.errors]) from None
    _print_ids(ids)
    took = time.monotonic() - started
    say(f"Enqueued {plural(len(ids), 'job')} in {took:.1f} s ({len(ids) / took:,.0f}/s).")


def _print_ids(ids: Sequence[str]) -> None:
    try:
        click.echo("\n".join(ids))
    except BrokenPipeError:
        raise
    except OSError as error:
        error.strerror = f"{error.strerror}. {plural(len(ids), 'job')} stored"
        raise


def _read_lines(path: str) -> list[str]:
    """Read the lines of a file or of stdin. Only a line feed ends a line: JSON may contain other separators."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}.") from None
    # PowerShell redirects output as UTF-16 with a byte order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding).rstrip("\n").split("\n")
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
        if not line.strip():
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


def _refusal(errors: Sequence[tuple[int, FieldError]]) -> click.ClickException:
    texts = [f"line {line}: {f'{one.field}: ' if one.field else ''}{one.message}" for line, one in errors]
    more = [f"and {len(errors) - SHOWN_ERRORS:,} more"] if len(errors) > SHOWN_ERRORS else []
    return click.ClickException("\n".join(["nothing was stored.", *texts[:SHOWN_ERRORS], *more]))


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
