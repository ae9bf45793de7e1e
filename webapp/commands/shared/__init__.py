"""What several commands share: the database behind them, options, tables, logs, messages."""
