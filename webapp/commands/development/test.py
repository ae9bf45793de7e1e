"""`test`: runs lint, type checks and tests. `tests/plan.py` has the steps.

The bootstrap installs the development packages first.
"""

from __future__ import annotations

from typing import Optional

import click

PARTS = ("lint", "types", "tests", "browser", "postgresql")


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: manage.py test tests/worker -k timeout",
)
@click.option("--all", "everything", is_flag=True, help="Run all tests on both databases, and long faults.")
@click.option("--only", type=click.Choice(PARTS), help="Run only this part.")
@click.option("--python", "version", metavar="X.Y", help="Run the tests for other Pythons, or the named ones, with it.")
@click.option("--faults", is_flag=True, help="Run fault injection for --minutes: kills, full disks, power cuts.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="Duration of the fault injection.")
@click.option("--seed", type=int, help="Repeat the fault injection of an earlier run, which printed its seed.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def test(
    everything: bool,
    only: Optional[str],
    version: Optional[str],
    faults: bool,
    minutes: float,
    seed: Optional[int],
    pytest_args: tuple[str, ...],
) -> int:
    """Run lint, type checks and tests.

    With arguments, run only pytest with these (`--db postgresql` for PostgreSQL).
    """
    from tests import plan

    steps: list[plan.Step] = []
    outcomes: list[plan.Outcome] = []
    if faults:
        steps = [plan.fault_injection(minutes, seed, pytest_args)]
    elif version:
        steps, outcomes = plan.for_python(version, pytest_args or plan.portable(everything), required=True)
    elif pytest_args:
        steps = [plan.pytest("tests", *pytest_args)]
    else:
        steps, outcomes = plan.whole(only, everything)
    return 0 if plan.run_all(steps, outcomes) else 1
