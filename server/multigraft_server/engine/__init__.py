"""The engine: requests in, steps over many tasks, answers out. Knows no HTTP."""
