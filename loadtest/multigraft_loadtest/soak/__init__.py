"""A soak: a storm that lasts, with training jobs beside it, and what of the server grows meanwhile."""
