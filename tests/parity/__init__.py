"""Parity: what the server answers over HTTP is what PEFT computes."""
