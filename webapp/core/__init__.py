"""The queue itself, in plain DB-API: what workers and `manage.py enqueue` need. No Flask, no SQLAlchemy, no click."""
