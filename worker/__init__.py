"""Worker processes: they claim jobs, run their commands and settle the results. Nothing here imports the console.

- `supervisor/` starts and stops the processes.
- `loop/` is one worker: `loop/worker.py` its main loop, `loop/claims.py` its statements.
- `runner/` runs one command as a process tree.
- `maintenance/` recovers jobs of dead workers, deletes old jobs, updates roll-ups.

Windows has no fork and no POSIX signals: there `supervisor/spawning.py` and `runner/threads.py` replace
`supervisor/forking.py` and `runner/posix.py`. Every module can be imported on every platform.
"""
