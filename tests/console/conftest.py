"""Servers for the console's tests; a browser's are in `browser.py`."""

from tests.server.conftest import load_tiny, serve

__all__ = ["load_tiny", "serve"]
