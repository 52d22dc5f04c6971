"""What a command shows while it works: written over on a terminal, now and then in a log."""

import io
from itertools import count

from robustness.cli.console import LOG_EVERY_S, LiveLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_gone_in_the_end() -> None:
    stream, clock = Terminal(), count()
    line = LiveLine(stream, clock=lambda: float(next(clock)))
    line.show("first")
    line.show("second")
    line.clear()
    line.say("stays")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.index("first") < text.index("second") < text.index("stays")
    assert text.endswith("\r\x1b[Krobustness: stays\n")


def test_a_log_has_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), count(step=LOG_EVERY_S / 4)
    line = LiveLine(stream, clock=lambda: next(clock))
    for number in range(12):
        line.show(f"text {number}")
    line.clear()
    assert not line.is_watched
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 6
    assert all(one.startswith("robustness: text ") for one in lines)
    assert "\x1b" not in stream.getvalue()


def test_names_from_outside_and_broken_pipes_do_no_harm() -> None:
    stream = Terminal()
    line = LiveLine(stream, clock=lambda: 0.0)
    line.say("a\x1b[2Jb\nc")
    assert stream.getvalue() == "robustness: a\\x1b[2Jb\\nc\n"
    stream.close()
    line.say("nobody hears")
