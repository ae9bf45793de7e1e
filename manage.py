#!/usr/bin/env python3
"""The entry point: checks the Python version, enters the virtual environment, and runs webapp.commands.

This file must parse with any version of Python, so an old one gets a message and not a SyntaxError: no f-strings and
no annotations here. The imported modules may use everything that Python 3.9 has.
"""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036 - for people who start it with an older one
    sys.stderr.write(
        "manage.py: needs Python 3.9 or newer, but " + str(sys.executable) + " is " + sys.version.split()[0] + ". "
        "Use a newer one, for example: python3.11 manage.py\n"
    )
    sys.exit(1)

if __name__ == "__main__":
    checkout = os.path.dirname(os.path.realpath(__file__))
    sys.path.insert(0, checkout)
    try:
        from webapp.bootstrap.enter import enter_venv

        enter_venv(checkout, sys.argv[1:])

        from webapp.commands import main

        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
