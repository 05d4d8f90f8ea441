"""Faults, one after another, under traffic: what each does to requests and data, and how long it lasts."""
