"""The same rules by each way in: console, API and command line."""
