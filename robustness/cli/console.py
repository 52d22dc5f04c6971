"""What all commands do alike: shared options, refusals, results, and a line of progress."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from robustness.errors import RobustnessError
from robustness.runtime.plain import encodable, plain
from robustness.store.files import missing_folder, write_atomically
from robustness.store.store import default_root

UNUSABLE = 2
"""Exit code of what cannot be read, compared or written; that of a usage problem, too."""

TERMINAL_EVERY_S = 0.25
LOG_EVERY_S = 30.0

_CLEAR = "\r\x1b[K"

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
Stack = Annotated[str, typer.Option(help="Of several: auto, encoder or decoder.")]
AllowPickle = Annotated[
    bool | None,
    typer.Option("--allow-pickle", help="Read pytorch_model.bin where there are no safetensors."),
]
Base = Annotated[str | None, typer.Option(help="The model that an adapter (PEFT) belongs to.")]
Tokenizer = Annotated[str | None, typer.Option(help="A tokenizer instead of the checkpoint's own.")]
Store = Annotated[
    Path | None,
    typer.Option(help="Folder for what has been read before (default: the user's cache)."),
]


def given(**options: Any) -> dict[str, Any]:
    """Those options that the command line names."""
    return {name: value for name, value in options.items() if value is not None}


def show(text: str, *, nl: bool = True) -> None:
    """Write a result on standard output, in what its encoding has."""
    typer.echo(encodable(text, sys.stdout.encoding), nl=nl)


def show_json(facts: Mapping[str, Any]) -> None:
    """Write a result as JSON, which no NaN may be in."""
    typer.echo(json.dumps(facts, indent=2, allow_nan=False))


def say(sentence: str) -> None:
    """Tell of something beside the result, on standard error."""
    typer.echo(encodable(f"robustness: {plain(sentence)}", sys.stderr.encoding), err=True)


def write_file(file: Path, text: str) -> None:
    """Write a report, and say if a folder had to be made for it."""
    folder = missing_folder(file)
    write_atomically(file, text)
    if folder is not None:
        say(f"made the folder {folder}")


def store_root(store: Path | None) -> Path:
    """The store's folder, by default the user's; it is said if others have to be made for it."""
    if store is None:
        return default_root()
    if folder := missing_folder(store):
        say(f"the store makes the folder {folder}")
    return store.absolute()


def stop(sentence: str, code: int = UNUSABLE) -> NoReturn:
    """Say why there is no result, and end the command."""
    say(sentence)
    raise typer.Exit(code)


@contextlib.contextmanager
def refusing(written: str | None = None) -> Iterator[None]:
    """End with one sentence where something cannot be used, or what is written cannot be."""
    try:
        yield
    except RobustnessError as error:
        stop(str(error))
    except OSError as error:
        if written is None:
            raise
        stop(f"{written} could not be written: {error}")


class LiveLine:
    """Progress on standard error, written over on a terminal, elsewhere a line now and then."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self.is_watched = self._stream.isatty()
        self._clock = clock
        self._every_s = TERMINAL_EVERY_S if self.is_watched else LOG_EVERY_S
        self._last = clock() - (TERMINAL_EVERY_S if self.is_watched else 0.0)
        self._shown = False

    def show(self, text: str) -> None:
        """Write the text if it is time to; called often."""
        if self._clock() - self._last < self._every_s:
            return
        self._last = self._clock()
        line = f"robustness: {plain(text)}"
        if not self.is_watched:
            self._write(f"{line}\n")
            return
        room = max(20, shutil.get_terminal_size().columns - 1)
        self._write(f"{_CLEAR}{line[:room]}")
        self._shown = True

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._write(f"robustness: {plain(text)}\n")

    def clear(self) -> None:
        """Remove what is shown: there is nothing more to wait for."""
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    def _write(self, text: str) -> None:
        # A closed pipe: progress is worth no failure.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(encodable(text, self._stream.encoding))
            self._stream.flush()
