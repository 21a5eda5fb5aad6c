"""Who is asking: pure values and the rules that make them. No I/O in here."""
