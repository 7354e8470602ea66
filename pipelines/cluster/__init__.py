"""Use a Ray cluster: start or join it, count its slots, handle signals."""
