"""Requests about limits and batches."""
