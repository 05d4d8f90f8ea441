"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is slow, not wrong: no example of a property has a deadline.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
