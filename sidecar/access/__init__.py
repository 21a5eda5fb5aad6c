"""Route rules and the one decision: RequestView in, Verdict out."""
