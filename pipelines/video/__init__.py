"""Decode video files to uint8 frames, in child processes that may crash."""
