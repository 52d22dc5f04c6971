"""The real checkpoints that ``damage.py`` breaks, and the texts that they read."""

import csv
import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from between import read_fasta, write_fasta
from damage_checkpoint import Texts
from vet_checkpoints import SMOLLM2


@dataclass(frozen=True, kw_only=True)
class Base:
    """A checkpoint to make others from.

    Attributes:
        reference: what the gate is given, below the shared folder or in a package.
        texts: reads all texts, from the shared folder.
        corpus: writes what the gate is to see into a folder, and names it.
        ways: of masking each text, when damage is measured; 0 of a causal model.
        measured: texts of both kinds that are read then, at most.
        few: whether only one strength of a kind and few variants are made of it: it is large.
    """

    reference: str
    texts: Callable[[Path], Texts]
    corpus: Callable[[Texts, Path], str]
    ways: int
    measured: Mapping[str, int]
    few: bool = False


def antibodies(shared: Path) -> Texts:
    """Light chains, and heavy ones as the other text."""
    light = read_fasta(shared / "data" / "antibody-light.fa")
    heavy = read_fasta(shared / "data" / "antibody-heavy.fa")
    return Texts(here=tuple(light[::2]), elsewhere=tuple(light[1::2]), other=tuple(heavy))


def write_antibodies(texts: Texts, folder: Path) -> str:
    """As FASTA."""
    return str(write_fasta(folder / "here.fa", list(texts.here)))


def reactions(shared: Path) -> Texts:
    """Reactions; the other text has them from right to left."""
    with (shared / "data" / "rxnmapper_example_rxns.csv").open(newline="") as file:
        found = [line["rxn"] for line in csv.DictReader(file)]
    turned = tuple(">>".join(reversed(reaction.split(">>"))) for reaction in found[::2])
    return Texts(here=tuple(found[::2]), elsewhere=tuple(found[1::2]), other=turned)


def write_reactions(texts: Texts, folder: Path) -> str:
    """As a column of a table."""
    file = folder / "here.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["rxn"], *([text] for text in texts.here)])
    return f"{file}:rxn"


def prose(shared: Path) -> Texts:
    """Rows of the built-in corpus; elsewhere, of WikiText-2; the other text is reactions."""
    folder = importlib.resources.files("robustness.corpus").joinpath("data", "builtin")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    texts = [file.read_text(encoding="utf-8") for file in files if file.name.endswith(".txt")]
    builtin = "\n".join(texts)
    wikitext = (shared / "data" / "wikitext-2-raw" / "wiki.test.raw").read_text(encoding="utf-8")
    joined = ".".join(reactions(shared).here)
    return Texts(here=rows(builtin), elsewhere=rows(wikitext), other=rows(joined))


def rows(text: str, number: int = 32, size: int = 900) -> tuple[str, ...]:
    """Pieces of a text, at equal distances; their first 128 tokens are read."""
    step = (len(text) - size) // (number - 1)
    pieces = [text[n * step :][:size] for n in range(number)]
    return tuple(piece.partition(" ")[2] or piece for piece in pieces)  # no half words


BASES: Mapping[str, Base] = {
    "sapiens": Base(
        reference="models/sapiens-roberta-vl",
        texts=antibodies,
        corpus=write_antibodies,
        ways=3,
        measured={"here": 128, "elsewhere": 284},
    ),
    "rxnfp": Base(
        reference="models/rxnfp-bert-mlm",
        texts=reactions,
        corpus=write_reactions,
        ways=1,
        measured={"here": 32, "elsewhere": 96},
    ),
    "rxnmapper": Base(
        reference="models/rxnmapper-albert-mlm",
        texts=reactions,
        corpus=write_reactions,
        ways=1,
        measured={"here": 32, "elsewhere": 96},
    ),
    "smollm2": Base(
        reference=SMOLLM2,
        texts=prose,
        corpus=lambda *_: "builtin",
        ways=0,
        measured={"here": 16, "elsewhere": 32},
        few=True,
    ),
}
"""By name."""
