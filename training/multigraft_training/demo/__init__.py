"""The demo: one base, three tasks trained while it serves, all of them answered in one step."""
