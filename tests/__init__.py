"""Tests of the package; no example has a deadline, which would say how busy a machine is."""

from hypothesis import settings

settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")
