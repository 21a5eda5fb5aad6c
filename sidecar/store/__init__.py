"""What lasts: token records and denials, in one store with one log of changes, and the local mirror of it."""
