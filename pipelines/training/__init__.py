"""One training, on one process or on many."""
