"""Tests of the store of adapter files."""
