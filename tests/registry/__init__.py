"""Tests of the registry: names, aliases, history, two processes, migrations."""
