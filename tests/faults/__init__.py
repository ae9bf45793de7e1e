"""The fault suite: what the product promises, held against kills, stops, full disks, lost power and crowds.

`rig.py` starts the product as a person would and keeps what it acknowledged; every job writes to a ledger outside the
database (`ledger.py`); `invariant.py` judges by both. A fault is a function that takes a rig and a number of rounds:
the tests here run a few, `manage.py test --faults` runs them for as long as it is told to (`long_run.py`).
"""
