"""Options, exit codes, errors and text of all commands."""
