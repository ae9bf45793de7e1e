"""What several commands share: the database behind them, tables, logs, messages."""
