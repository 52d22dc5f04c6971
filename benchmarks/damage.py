"""Damaged and harmless copies of real checkpoints, and what that costs by a plain loop.

    python benchmarks/damage.py measure [--only sapiens] [--shared ../shared] [--work damage-work]

``measure`` builds every candidate from a real checkpoint (kinds of damage in three strengths, and
harmless variants), and measures it by the plain loop of ``damage_truth.py`` twice: on the text that
a gate sees (*here*), and on another one (*elsewhere*). **Damaged** is what costs at least 2 %
perplexity elsewhere; *harmless* are the variants of ``damage_harmless.py``. A kind of damage that
costs less is *mild*, and either verdict is right. What was measured stands in ``damage.json`` and
is not measured again.

Texts: sapiens, antibody light chains (here: even ones, elsewhere: odd ones, other: heavy chains);
reactions likewise (other: reactions from right to left); SmolLM2, rows of the built-in corpus,
elsewhere of WikiText-2, other: reactions. How many are read stands in ``damage_texts.py``.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))
import damage_structure  # noqa: F401 (registers kinds, as the next does)
import damage_trained  # noqa: F401
from damage_checkpoint import Stored, loaded, read, write
from damage_harmless import variants
from damage_numbers import zoo
from damage_texts import BASES, Base
from damage_truth import all_scored, effect, largest_change

RECORDS = Path(__file__).with_name("damage.json")

DAMAGED = 1.02
"""Times the perplexity elsewhere."""

ENOUGH = 24
"""Texts on which a candidate that is the same function is measured."""

FEW = (
    *("rounded, one scale per channel", "GGUF type", "noise", "swapped layers", "swapped rows"),
    *("dead attention", "scaled norms", "wrong rotary base", "rotary layout", "outlier scales"),
)
"""Kinds that are made of a large checkpoint."""


class Candidate(NamedTuple):
    """Something made of a checkpoint.

    Attributes:
        name: kind and strength, or the harmless variant.
        group: ``damage``, ``harmless`` or ``training``.
        make: makes it.
        exact: whether it is the same function by construction: few texts show that.
    """

    name: str
    group: str
    make: Callable[[], Stored]
    exact: bool = False


def candidates(stored: Stored, *, few: bool) -> Iterator[Candidate]:
    """Everything that is made of a checkpoint: damage, then what is harmless."""
    for name, kind, strength in zoo(stored):
        if not few or kind.name in FEW:
            yield Candidate(name, "damage", partial(kind.change, stored, strength))
    for variant in variants(stored):
        if not few or not variant.training:
            group = "training" if variant.training else "harmless"
            change = partial(variant.change, stored)
            yield Candidate(variant.name, group, change, exact=variant.exact)


def base_folder(base: Base, shared: Path, work: Path) -> Path:
    """The reference as a folder of safetensors: itself, or what its GGUF file was converted to."""
    if not base.reference.startswith("pkg:"):
        return shared / base.reference
    from robustness.checkpoint.resolving import resolve

    return resolve(base.reference, cache=work / "converted").folder


def measure(name: str, args: argparse.Namespace) -> None:
    """All candidates of a checkpoint that are not in the records."""
    base = BASES[name]
    folder = base_folder(base, args.shared, args.work)
    stored = read(folder, base.texts(args.shared))
    then, tokenizer = loaded(folder)
    texts = {place: getattr(stored.texts, place)[:n] for place, n in base.measured.items()}
    ask = partial(all_scored, ways=base.ways)
    reference = {place: ask(then, tokenizer, those) for place, those in texts.items()}
    records = known()
    own = records.setdefault(name, {})
    for candidate in candidates(stored, few=base.few):
        if candidate.name in own:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=args.work) as made:
            now, its_tokenizer = loaded(write(candidate.make(), Path(made)))
        found: dict[str, Any] = {"group": candidate.group}
        found["weights"] = digits(largest_change(now, then))
        n = ENOUGH if candidate.exact else None
        for place, those in texts.items():
            scored = ask(now, its_tokenizer, those[:n])
            found[place] = [*map(digits, effect(scored, reference[place][:n]))]
        own[candidate.name] = found
        keep_records(records)
        print(f"{name}: {candidate.name}: {found}, {time.monotonic() - began:.0f} s", flush=True)


def digits(value: float) -> float | str:
    """Five of them; infinity as a word, which JSON has none for."""
    return float(f"{value:.5g}") if math.isfinite(value) else "inf"


def known() -> dict[str, Any]:
    """What was measured."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else {}


def keep_records(records: Mapping[str, Any]) -> None:
    """A candidate a line."""
    lines = [
        f" {json.dumps(base)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in own.items())
        + "\n }"
        for base, own in records.items()
    ]
    RECORDS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("measure",))
    parser.add_argument("--only", action="append", choices=tuple(BASES))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--work", type=Path, default=Path("damage-work"))
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    args.shared = args.shared.absolute()
    return args


def main() -> None:
    """One of the actions."""
    quiet: Any = logging  # partly untyped
    quiet.disable_progress_bar()
    args = parsed()
    for name in args.only or BASES:
        if args.action == "measure":
            measure(name, args)


if __name__ == "__main__":
    main()
