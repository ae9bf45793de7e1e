"""Runs a command without the bootstrap: `manage.py` hands over to it, and our own child processes start with it.

The script's folder must not stay on the path: its `queue.py` would stand in front of the standard library's.
"""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

if __name__ == "__main__":
    from webapp.bootstrap.enter import mark_in_use, prefer_locked_packages
    from webapp.commands import main

    mark_in_use(os.path.realpath(sys.prefix))
    prefer_locked_packages(sys.path[0])
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
