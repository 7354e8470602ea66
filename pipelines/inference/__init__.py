"""Models applied to videos."""
