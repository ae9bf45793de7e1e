"""How pages say things: words, times, charts, output, reasons."""
