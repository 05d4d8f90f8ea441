"""Ours and the peers, in turn on the same workload, against the project's targets."""
