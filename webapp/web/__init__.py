"""What console and API share: gate, errors, headers, streaming."""
