"""Runs one command as a process tree."""
