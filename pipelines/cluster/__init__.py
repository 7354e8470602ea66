"""Ray: start or join it, count what fits on it, keep Ctrl-C."""
