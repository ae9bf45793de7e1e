"""The supervisor: starts, watches and stops worker processes."""
