"""./tests/integrations."""
