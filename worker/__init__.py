"""A process that uses the application: takes jobs, runs their commands, settles what came of them.

Nothing here knows the console. `supervisor.py` starts worker processes, `loop.py` is one of them, `claims.py` its
hot path through the database, `runner.py` its commands, `keeper.py` looks after what dead workers leave behind.

Nothing needs fork or POSIX signals where there are none (Windows): `spawning.py` and `runner_threads.py` do there what
`forking.py` and `runner_posix.py` do elsewhere. Every module can be imported everywhere.
"""
