"""Text from outside made fit for a terminal, a log file and the log of a CI job.

Names of folders, files, tensors, columns and keys come from whoever made a checkpoint. Printed as
they are, they could move the cursor, forge lines of a report, or give GitHub's runner a command:
it obeys log lines that begin with ``::`` (blanks before it count for nothing) or contain ``##[``.
"""

_MAX_CHARACTERS = 2000
"""Of one line: enough for every sentence of ours, and for the paths in it."""


def plain(text: str, *, limit: int | None = _MAX_CHARACTERS) -> str:
    r"""The text as one printable line that no terminal and no CI runner acts upon.

    Control characters, line ends, invisible and reordering characters and broken surrogates become
    escapes as in Python's source (``\x1b``, ``\n``, ``\u202e``). Of more than ``limit`` characters
    the middle is left out.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-(limit // 2) :]}"
    text = visible(text)
    text = text.replace("##[", r"##\[")
    start = len(text) - len(text.lstrip())
    return f"{text[:start]}\\{text[start:]}" if text.startswith("::", start) else text


def visible(text: str) -> str:
    """The text with escapes for what is invisible, or turns its direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


_IN_ASCII = {
    "\N{GREEK CAPITAL LETTER DELTA}": "delta ",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
}


def encodable(text: str, encoding: str | None) -> str:
    """The text with what an encoding lacks (``None``: ASCII) written in ASCII, or as escapes."""
    encoding = encoding or "ascii"
    if is_encodable(text, encoding):
        return text
    kept = (c if is_encodable(c, encoding) else _IN_ASCII.get(c) or _escape(c) for c in text)
    return "".join(kept)


def is_encodable(text: str, encoding: str | None) -> bool:
    """Whether a stream of that encoding can hold the text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _escape(character: str) -> str:
    return character.encode("unicode_escape", errors="surrogatepass").decode("ascii")
