"""The trials of a sweep: search, early stopping, refinement, replication, frontier."""
