"""``python -m robustness``, where the console program is not on the path."""

from robustness.cli.app import app

app(prog_name="robustness")
