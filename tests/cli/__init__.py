"""Tests of the client and of the commands, against a small server that speaks the design's answers."""
