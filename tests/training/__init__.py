"""Tests of training: recipes, data, the loop, and the artifacts that come out of it."""
