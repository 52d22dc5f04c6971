"""./tests/support/plugin."""
