"""Frozen bases: finding them, describing them, loading them."""
