"""`enqueue`: one job from JSON or options, or many from JSON lines, all or none.

What a job may look like is decided in `webapp/core/job_spec.py`; here is where its words come from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.shared.core import DURATION, actor, core
from webapp.commands.shared.output import say
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.core.job_spec import FieldError, JobSpec

SHOWN_FAULTS = 20
QUOTING = (
    "It looks as if the shell took the quotes away. "
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
@click.option("--file", "path", metavar="FILE", help="Read one JSON object a line; store all of them or none.")
@click.option("--command", help="The shell command to run, in the place of JSON.")
@click.option("--id", "id_", metavar="ID", help="Its id; made up where there is none.")
@click.option("--queue", metavar="NAME", help="Its queue (default: default).")
@click.option(
    "--requires",
    metavar="LABEL",
    multiple=True,
    help="Only for workers that have it, such as gpu or host:web-1; may be repeated.",
)
@click.option("--priority", type=int, help="From -100 to 100, higher first (default: 0).")
@click.option("--delay", type=DURATION, help="Wait this long before the first attempt.")
@click.option("--run-at", metavar="TIME", help="Run at this time, such as 2030-01-31T08:00:00Z.")
@click.option("--max-retries", type=int, help="Automatic retries after the first attempt.")
@click.option("--timeout", type=DURATION, help="End an attempt that runs longer.")
@click.option("--cwd", metavar="FOLDER", help="Run it in this folder.")
@click.option("--env", "pairs", metavar="NAME=VALUE", multiple=True, help="Set a variable for it; may be repeated.")
def enqueue(
    job: tuple[str, ...],
    path: Optional[str],
    command: Optional[str],
    pairs: tuple[str, ...],
    requires: tuple[str, ...],
    **options: Any,
) -> None:
    """Submit the job JOB, a JSON object, and print its id. '-' reads many from standard input, one a line."""
    options["requires"] = ",".join(requires) if requires else None
    described = bool(pairs) or any(value is not None for value in options.values())
    if sum((bool(job), path is not None, command is not None)) != 1:
        raise click.UsageError("Give one of: a JSON object, '-', --file, or --command.")
    if command is not None:
        _enqueue_one(_from_options(command, pairs, options))
    elif described:
        raise click.UsageError("--id, --queue and so on go with --command. In JSON they are keys of the object.")
    elif len(job) > 1:
        raise click.UsageError(f"one job is one argument, not {len(job)}. {QUOTING}")
    elif path is not None or job == ("-",):
        _enqueue_many(path or "-")
    else:
        _enqueue_one(_from_argument(job[0]))


def _from_options(command: str, pairs: Sequence[str], options: dict[str, Any]) -> JobSpec:
    import os

    from webapp.core import job_spec

    data = {"id" if key == "id_" else key: value for key, value in options.items() if value is not None}
    data["command"] = command
    if "cwd" in data:
        data["cwd"] = os.path.abspath(os.path.expanduser(data["cwd"]))
    env: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} has no '='; expected NAME=VALUE.", param_hint="--env")
        if name in env:
            raise click.BadParameter(f"{name!r} is set twice; give each variable once.", param_hint="--env")
        env[name] = value
    return job_spec.parse({**data, "env": env} if env else data)


def _from_argument(text: str) -> JobSpec:
    from webapp.core import job_spec

    try:
        return job_spec.parse_json(text)
    except job_spec.SpecError as error:
        if "not JSON" not in str(error):
            raise
        bare = text.strip().strip("'")
        quotes_lost = (bare.startswith("{") and '"' not in bare) or text.strip().startswith("'")
        hint = QUOTING if quotes_lost else "" if bare.startswith("{") else "For a shell command: --command 'echo hi'."
        raise click.ClickException(f"{error} {hint}".rstrip()) from None


def _enqueue_one(spec: JobSpec) -> None:
    from webapp.jobs import actions

    with core():
        (id_,) = actions.enqueue([spec], actor())
    _print_ids([id_])


# --- many ------------------------------------------------------------------------------------------------------------


def _enqueue_many(path: str) -> None:
    from webapp.core import job_spec
    from webapp.jobs import actions

    started = time.monotonic()
    lines = _read_lines(path)
    with _progress(len(lines)) as (read, stored):
        specs, places = _parse_lines(lines, read)
        if not specs:
            say("No jobs: there is nothing but blank lines.")
            return
        try:
            with core():
                ids = actions.enqueue(specs, actor(), stored=stored)
        except job_spec.SpecError as error:
            raise _refusal([(places[one.place or 0], one) for one in error.errors]) from None
    _print_ids(ids)
    took = time.monotonic() - started
    say(f"Enqueued {plural(len(ids), 'job')} in {took:.1f} s ({len(ids) / took:,.0f}/s).")


def _print_ids(ids: Sequence[str]) -> None:
    try:
        click.echo("\n".join(ids))
    except BrokenPipeError:
        raise
    except OSError as error:  # not to be taken for a job that was not stored
        error.strerror = f"{error.strerror}. {plural(len(ids), 'job')} stored all the same"
        raise


def _read_lines(path: str) -> list[str]:
    """The lines of a file or of standard input. They end at line feeds only: JSON texts may hold other separators."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}.") from None
    # PowerShell's redirection writes UTF-16 with a byte order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding).rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise click.ClickException(f"line {line}: this is not UTF-8 text. Nothing was stored.") from None


def _parse_lines(lines: Sequence[str], read: Tick) -> tuple[list[JobSpec], list[int]]:
    """All jobs and the numbers of their lines. Raises with every fault in every line."""
    from webapp.core import job_spec

    specs: list[JobSpec] = []
    places: list[int] = []
    faults: list[tuple[int, FieldError]] = []
    for number, line in enumerate(lines, 1):
        if number % 1000 == 0:
            read(number)
        if not line.strip():
            continue
        try:
            specs.append(job_spec.parse_json(line))
            places.append(number)
        except job_spec.SpecError as error:
            faults += [(number, one) for one in error.errors]
    read(len(lines))
    seen: dict[str, int] = {}
    for spec, number in zip(specs, places):
        if spec.id is not None and seen.setdefault(spec.id, number) != number:
            message = f"{spec.id!r} is the id of line {seen[spec.id]}, too. Ids must differ."
            faults.append((number, job_spec.FieldError("id", message)))
    if faults:
        raise _refusal(sorted(faults, key=lambda fault: fault[0]))
    return specs, places


def _refusal(faults: Sequence[tuple[int, FieldError]]) -> click.ClickException:
    texts = [
        f"line {line}: {f'{one.field}: ' if one.field else ''}{one.message}" for line, one in faults[:SHOWN_FAULTS]
    ]
    if len(faults) > SHOWN_FAULTS:
        texts.append(f"and {len(faults) - SHOWN_FAULTS:,} more")
    return click.ClickException("nothing was stored.\n" + "\n".join(texts))


@contextmanager
def _progress(total: int) -> Iterator[tuple[Tick, Tick]]:
    """Two functions that take how many lines were read and how many jobs stored: a bar and a rate on a terminal."""
    if total < 100 or not sys.stderr.isatty():
        yield (lambda _: None), (lambda _: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:

        def follow(description: str) -> Tick:
            task = progress.add_task(description, total=total, rate="", start=False)

            def advance(done: int) -> None:
                progress.start_task(task)
                speed = progress.tasks[task].speed
                progress.update(task, completed=done, rate=f"{speed:,.0f}/s" if speed else "")

            return advance

        yield follow("read"), follow("stored")
