"""Tests of multigraft, through its public seams."""
