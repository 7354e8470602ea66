"""Run commands: options, exit codes, errors, and text for people."""
