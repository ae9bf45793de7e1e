"""Serves the console and the API: gunicorn, or waitress on Windows."""
