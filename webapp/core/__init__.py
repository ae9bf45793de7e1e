"""The queue itself: transactions, locks, states, job specs, enqueue, settings. No Flask, no ORM."""
