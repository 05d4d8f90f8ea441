"""Training jobs of the registry, done one at a time, each in a process of its own."""
