"""./tests/plugin_together."""
