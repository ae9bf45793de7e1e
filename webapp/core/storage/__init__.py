"""The queue's database: connections, transactions, locks, errors, for SQLite and PostgreSQL."""
