"""./tests/documents."""
