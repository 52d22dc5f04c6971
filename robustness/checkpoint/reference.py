"""From the text a user types to the thing it names: a folder, a GGUF file, a package, a Hub id.

Nothing heavy is imported here and nothing is read but the file system's answer to "is it there?",
so that a reference can be parsed, and its label known, before a run has decided to do anything.
"""

import importlib.machinery
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from robustness.errors import CheckpointError

Kind = Literal["folder", "gguf", "package", "hub"]

# The Hub's own rule for repository names (huggingface_hub.utils.validate_repo_id), without the
# import: letters, digits, '-', '_', '.', no '--' or '..', at most 96 characters, at most one '/'.
_HUB_ID = re.compile(
    r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?(?:/[A-Za-z0-9](?:[\w.-]*\w)?)?", re.ASCII
)
_REVISION = re.compile(r"[A-Za-z0-9](?:[\w./-]*\w)?", re.ASCII)
_PACKAGE_PREFIX = "pkg:"


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    """What a reference text names, found without loading, downloading or importing anything.

    Attributes:
        text: The text as it was given.
        kind: ``folder``, ``gguf`` (a file), ``package`` (a folder or ``.gguf`` file inside an
            installed package) or ``hub``.
        target: The absolute path, or the Hub id of the repository.
        revision: The revision asked for; only a Hub id has one.
        inside: The subfolder or GGUF file that is meant within the repository.
        quantisation: What the name of the repository's one GGUF file that is meant contains.
        note: What the reader should know about how an ambiguous text was understood.
    """

    text: str
    kind: Kind
    target: str
    revision: str | None = None
    inside: str | None = None
    quantisation: str | None = None
    note: str | None = None

    @classmethod
    def parse(cls, text: str) -> "CheckpointRef":
        """Understand a reference: ``pkg:package/path``, a ``.gguf`` file, a folder, or a Hub id.

        An existing path wins over a Hub id of the same name; ``note`` then says so.

        Raises:
            CheckpointError: The text is empty or malformed, or names a path that does not exist.
        """
        if not text.strip():
            raise CheckpointError(
                "The checkpoint reference is empty: give a Hub id, a folder, a .gguf file or "
                "pkg:package/path."
            )
        if not text.isprintable():
            raise CheckpointError(
                f"The checkpoint reference {text!r} contains control characters: give a Hub id, a "
                "folder, a .gguf file or pkg:package/path."
            )
        if text.startswith(_PACKAGE_PREFIX):
            return cls._parse_package(text)
        path = Path(os.path.expanduser(text))  # noqa: PTH111 (leaves ~nobody as it is)
        if _exists(path):
            return cls._parse_path(text, path)
        return cls._parse_hub_id(text)

    @classmethod
    def _parse_package(cls, text: str) -> "CheckpointRef":
        package, _, inside = text.removeprefix(_PACKAGE_PREFIX).partition("/")
        parts = PurePath(inside).parts
        if ".." in parts or PurePath(inside).is_absolute() or "\\" in inside:
            raise CheckpointError(
                f"{text!r} points outside the package {package!r}: remove the '..'."
            )
        roots = _package_folders(package, text)
        for root in roots:
            path = root.joinpath(*parts)
            if _exists(path):
                _check_loadable_path(text, path)
                return cls(text=text, kind="package", target=str(path))
        raise CheckpointError(
            f"The installed package {package!r} contains no {inside!r}: check the path behind "
            "'pkg:'."
        )

    @classmethod
    def _parse_path(cls, text: str, path: Path) -> "CheckpointRef":
        _check_loadable_path(text, path)
        absolute = os.path.abspath(path)  # noqa: PTH100 (resolve() would follow Hub-like symlinks)
        if path.is_file():
            return cls(text=text, kind="gguf", target=absolute)
        note = None
        if _HUB_ID.fullmatch(text):
            note = f"the folder {text!r} exists and was taken, not a Hub model of the same name"
        return cls(text=text, kind="folder", target=absolute, note=note)

    @classmethod
    def _parse_hub_id(cls, text: str) -> "CheckpointRef":
        name, at, revision = text.partition("@")
        name, colon, quantisation = name.partition(":")
        repository, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
        if _looks_like_path(text) or (inside and _exists(Path(repository))):
            hint = (
                "; a revision can only be given for a Hub id" if at and _exists(Path(name)) else ""
            )
            raise CheckpointError(
                f"There is no such folder or file as {_shown(text)}{hint}: check the path."
            )
        odd = {"", ".", ".."}.intersection(inside.split("/") if inside else ())
        if odd or not is_hub_id(repository) or (colon and not _REVISION.fullmatch(quantisation)):
            raise CheckpointError(
                f"There is no such folder or file as {_shown(text)}, and it is no possible Hub id: "
                "give organisation/name, with /subfolder, /file.gguf or :Q4_K_M, and with "
                "@revision if wanted."
            )
        if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
            raise CheckpointError(
                f"{text!r} has no usable revision after '@': give a branch, a tag or a commit hash."
            )
        note = None
        if at and _exists(Path(name)):
            note = (
                f"{text!r} was looked up on the Hub, not in the folder {name!r}: it has a revision"
            )
        return cls(
            text=text,
            kind="hub",
            target=repository,
            revision=revision or None,
            inside=inside or None,
            quantisation=quantisation or None,
            note=note,
        )

    @property
    def is_gguf(self) -> bool:
        """Whether a GGUF file is meant; of a path, only where it is no folder."""
        named = self.inside if self.kind == "hub" else self.target
        return bool(self.quantisation or (named and _is_gguf(named)))

    @property
    def label(self) -> str:
        """The short name used in test ids: last part of the name, only ``[A-Za-z0-9._-]``."""
        return self.labels[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Possible labels, shortest first; each longer one says more about where it comes from."""
        if self.kind == "hub":
            parts = [
                *self.target.split("/"),
                *(_stem(self.inside).split("/") if self.inside else ()),
            ]
            parts[-1] += f"-{self.quantisation}" if self.quantisation else ""
            names = ["-".join(parts[-n:]) for n in range(1, len(parts) + 1)]
            if self.revision is not None:
                names = [names[0], *(f"{name}-{self.revision}" for name in names)]
        else:
            path = PurePath(self.target)
            parts = [part for part in path.parts[:-1] if part != path.anchor]
            names = [_stem(path.name)]
            for parent in reversed(parts):
                names.append(f"{parent}-{names[-1]}")
        return tuple(_sanitised(name) for name in names)


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _stem(name: str) -> str:
    """A name without GGUF's ending, and that of the first of several parts."""
    return re.sub(r"(-00001-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)


def is_hub_id(name: str) -> bool:
    """Whether the Hub could have a repository of that name."""
    return bool(
        _HUB_ID.fullmatch(name) and "--" not in name and ".." not in name and len(name) <= 96
    )


def unique_labels(references: Sequence[str]) -> list[str]:
    """Labels for several checkpoints of one run, no two of them equal.

    A label that collides is lengthened by what stands before it (parent folders, organisation,
    revision) until the colliding ones differ; what then still collides gets a counter.

    Returns:
        One label per reference, in the same order.
    """
    candidates = [CheckpointRef.parse(reference).labels for reference in references]
    length = [0] * len(candidates)
    while True:
        labels = [names[n] for names, n in zip(candidates, length, strict=True)]
        count = Counter(labels)
        longer = [
            i
            for i, names in enumerate(candidates)
            if count[labels[i]] > 1 and length[i] + 1 < len(names)
        ]
        if not longer:
            break
        for i in longer:
            length[i] += 1
    taken: set[str] = {label for label in labels if count[label] == 1}
    for i, label in enumerate(labels):
        if count[label] == 1:
            continue
        number, numbered = 1, label
        while numbered in taken:
            number += 1
            numbered = f"{label}-{number}"
        labels[i] = numbered
        taken.add(numbered)
    return labels


def _sanitised(name: str) -> str:
    """Only characters that every shell, report and test id takes; never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith((".", "/", "~"))
        or text.endswith(("/", ".safetensors"))
        or "\\" in text
        or (_is_gguf(text) and text.count("/") < 2)
        or bool(re.match(r"[A-Za-z]:", text))
    )


def _shown(text: str) -> str:
    """A text in quotes, cut where it is no use to anybody."""
    return repr(text) if len(text) <= 200 else f"{text[:200]!r} …"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system is no path
        return False


def _check_loadable_path(text: str, path: Path) -> None:
    """A folder or a GGUF file; of anything else say what to give instead."""
    if path.is_dir() or (path.is_file() and _is_gguf(path.name)):
        return
    raise CheckpointError(
        f"{text!r} is a single file: give the folder that holds config.json, the tokenizer and the "
        "safetensors files, or a .gguf file."
    )


def _package_folders(package: str, text: str) -> list[Path]:
    """The folders of an installed package, found without importing it or any parent of it."""
    if not all(part.isidentifier() for part in package.split(".")):
        raise CheckpointError(f"{text!r} names no package: write pkg:package/path/in/package.")
    top, *below = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # an already imported module without a spec, such as __main__
        spec = None
    for n in range(len(below)):
        if spec is None or spec.submodule_search_locations is None:
            break
        # importlib.util.find_spec would import the parents of a dotted name, PathFinder does not.
        name = ".".join([top, *below[: n + 1]])
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None:
        raise CheckpointError(
            f"The package {package!r} named by {text!r} is not installed: install it, or check its "
            "import name."
        )
    if spec.submodule_search_locations is None:
        raise CheckpointError(
            f"{package!r} in {text!r} is a module, not a package with files in it."
        )
    return [Path(location) for location in spec.submodule_search_locations]
