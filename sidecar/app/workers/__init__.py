"""Several processes behind one address: a supervisor, the workers that it leads, and what they say to each other."""
