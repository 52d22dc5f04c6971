"""./tests/corpus."""
