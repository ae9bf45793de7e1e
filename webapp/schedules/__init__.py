"""Schedules: when jobs are due, the ledger of fires, and the decider that enqueues jobs."""
