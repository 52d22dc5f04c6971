"""Views of measured facts: terminal table, JSON."""
