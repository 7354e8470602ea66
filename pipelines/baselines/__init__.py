"""Simple models without tensor trains, which a sweep holds its frontier against."""
