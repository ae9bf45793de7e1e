"""Schedules: when a job is due again and again, the ledger of what was decided, and the decider that enqueues."""
