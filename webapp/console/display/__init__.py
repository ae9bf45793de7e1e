"""What pages show besides the rows: reasons, times, charts, output, and words that several pages use."""
