"""Tests of the ground: artifacts, verification, methods, heads."""
