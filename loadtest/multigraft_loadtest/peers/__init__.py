"""Peers that a comparison runs in processes of their own. Their libraries are imported nowhere else."""
