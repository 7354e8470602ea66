"""Train models, in one process or in several."""
