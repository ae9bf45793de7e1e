"""`doctor`: checks this machine and installation. The checks are in `webapp/admin/doctor.py`."""

from __future__ import annotations

import click

from webapp.commands.shared.core import json_option
from webapp.commands.shared.output import STYLES, as_dict, grid, print_json, show


@click.command(epilog="Example: manage.py doctor --json")
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine and this installation. The exit code is 1 if a check fails."""
    from webapp.admin.doctor import Finding, examine
    from worker.runner import limits

    findings = [Finding("job limits", "ok", f"set here: {limits.describe()}"), *examine()]
    if as_json:
        print_json([{**as_dict(one, "check", "result", "detail"), "advice": one.advice or None} for one in findings])
    else:
        from rich.text import Text

        rows = [(Text(one.result, STYLES[one.result]), one.check, f"{one.detail} {one.advice}") for one in findings]
        show(grid(rows, 3, ""))
    return 1 if any(one.result == "fail" for one in findings) else 0
