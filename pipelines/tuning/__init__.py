"""Search models, stop trials early, refine and replicate models, compute the frontier."""
