"""The complete copy of the store in this process's memory, kept current by the store's log."""
