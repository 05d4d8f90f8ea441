"""Load tests for multigraft; speaks HTTP only."""
