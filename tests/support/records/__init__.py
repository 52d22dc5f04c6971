"""./tests/support/records."""
