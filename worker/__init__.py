"""A process that uses the application: takes jobs, runs their commands, settles what came of them.

Nothing here knows the console. `worker/supervisor/supervisor.py` starts worker processes, `worker/loop/worker.py` is one of them, `worker/loop/claims.py` its
hot path through the database, `worker/runner/runner.py` its commands, `worker/maintenance/process.py` looks after what dead workers leave behind.

Nothing needs fork or POSIX signals where there are none (Windows): `worker/supervisor/spawning.py` and `worker/runner/threads.py` do there what
`worker/supervisor/forking.py` and `worker/runner/posix.py` do elsewhere. Every module can be imported everywhere.
"""
