"""Processes, streams, private files and logs of the operating system."""
