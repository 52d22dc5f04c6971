"""``python -m robustness``, where the console program is not on the path."""

from robustness.console import app

app(prog_name="robustness")
