"""Swap storm: whether every answer is by the version that it should be by, while versions come and go."""
