"""The package within other libraries' machinery."""
