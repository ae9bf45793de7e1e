"""The same rules in every face: console, API and command line."""
