"""Serves the console and the API with gunicorn, or with waitress on Windows."""
