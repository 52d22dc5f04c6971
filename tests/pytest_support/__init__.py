"""./tests/pytest_support."""
