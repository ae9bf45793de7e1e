"""The fault suite: the promises of the product under kills, suspended processes, full disks, power cuts and crowds.

`rig.py` starts the product and records what it acknowledged. Every job writes to a ledger outside the database
(`ledger.py`). `invariant.py` checks both. A fault is a function of a rig and a number of rounds: the tests here run a
few, `manage.py test --faults` runs them for a given time (`long_run.py`).
"""
