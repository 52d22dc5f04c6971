"""The gate against a reference, proven on damage: what it catches, misses and alarms falsely.

    python benchmarks/damage.py measure [--only sapiens] [--shared ../shared] [--work damage-work]
                                        [--few]
    python benchmarks/damage.py gate    [--only sapiens] [--batch 8] [--again]
    python benchmarks/damage.py table   [--only sapiens] [--write]

``measure`` builds every candidate from a real checkpoint (kinds of damage in three strengths, and
harmless variants), and measures it by the plain loop of ``damage_truth.py`` twice: on the text that
the gate will see (*here*), and on another one (*elsewhere*). **Damaged** is what costs at least 2 %
perplexity elsewhere; *harmless* are the variants of ``damage_harmless.py``. A kind of damage that
costs less is *mild*, and either verdict is right. What was measured stands in ``damage.json`` and
is not measured again.

``gate`` builds the candidates again and lets ``pytest --model=… --reference=…`` decide on them, as
a user would, several in one process (with ``--again``, also those it has decided on). ``table``
holds both against each other and against two alternatives: perplexity alone with a 5 % rule (here,
all of the text that was measured), and weights alone (a tensor whose relative change is above 5 %).

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))
import damage_structure  # noqa: F401 (registers kinds, as the next does)
import damage_trained  # noqa: F401
from damage_checkpoint import Stored, loaded, read, write
from damage_gate import Gate
from damage_harmless import variants
from damage_numbers import zoo
from damage_table import ABOUT, blocks, by_check, by_kind, found, partings, score, wrong
from damage_texts import BASES, Base
from damage_truth import all_scored, effect, largest_change
from results import conditions, keep, section, versions_of

RECORDS = Path(__file__).with_name("damage.json")

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
    done = known().get(name, {}).keys()
    for candidate in candidates(stored, few=base.few or args.few):
        if candidate.name in done:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=args.work) as made:
            now, its_tokenizer = loaded(write(candidate.make(), Path(made)))
        record: dict[str, Any] = {"group": candidate.group}
        record["weights"] = digits(largest_change(now, then))
        n = ENOUGH if candidate.exact else None
        for place, those in texts.items():
            scored = ask(now, its_tokenizer, those[:n])
            record[place] = [*map(digits, effect(scored, reference[place][:n]))]
        records = known()
        records.setdefault(name, {})[candidate.name] = record
        keep_records(records)
        print(f"{name}: {candidate.name}: {record}, {time.monotonic() - began:.0f} s", flush=True)


def gate(name: str, args: argparse.Namespace) -> None:
    """Verdicts on all measured candidates of a checkpoint that have none yet."""
    base = BASES[name]
    folder = base_folder(base, args.shared, args.work)
    stored = read(folder, base.texts(args.shared))
    named = str(folder) if folder == args.shared / base.reference else base.reference
    corpus = base.corpus(stored.texts, args.work)
    every = list(candidates(stored, few=base.few or args.few))
    for group in ("harmless", "training", "damage"):
        options = (f"--robustness-change={'training' if group == 'training' else 'conversion'}",)
        ask = Gate(reference=named, corpus=corpus, work=args.work, options=options)
        own = known().get(name, {})
        open_ones = [
            each
            for each in every
            if each.group == group
            and each.name in own
            and (args.again or "gate" not in own[each.name])
        ]
        for start in range(0, len(open_ones), args.batch):
            decide(name, ask, open_ones[start : start + args.batch], args.work)


def decide(name: str, ask: Gate, some: Sequence[Candidate], work: Path) -> None:
    """One process; what it found is kept."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=work) as made:
        folders = {
            write(each.make(), Path(made) / f"c{number:02d}"): each.name
            for number, each in enumerate(some)
        }
        verdicts = ask.decide(list(folders))
    records = known()
    for folder, verdict in verdicts.items():
        records[name][folders[folder]]["gate"] = verdict
        print(f"{name}: {folders[folder]}: {verdict}", flush=True)
    keep_records(records)
    print(f"{len(some)} candidates: {time.monotonic() - began:.0f} s", flush=True)


def table(names: Sequence[str], args: argparse.Namespace) -> None:
    """Everything that is known, as a section of RESULTS.md."""
    records = {name: own for name, own in known().items() if name in names}
    everything = list(found(records))
    asked = [each for each in everything if each.verdict is not None]
    lines = [*ABOUT, "", *score(asked), "", *wrong(asked), "", *by_check(asked), ""]
    lines += ["Text blocks that verdicts took:", "", *blocks(asked), ""]
    lines += [
        "Where KL divergence and changed predictions part what is damaged from conversions:",
        "",
    ]
    for some in (*([name] for name in records), list(records)):
        lines += partings([each for each in everything if each.base in some])
    packages = ("torch", "transformers", "tokenizers", "numpy", "gguf")
    about = conditions(versions_of(packages))
    keep(section(about, *lines, "", *by_kind(asked)), write=args.write)


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


ACTIONS: Mapping[str, Callable[..., None]] = {"measure": measure, "gate": gate, "table": table}


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=tuple(ACTIONS))
    parser.add_argument("--only", action="append", choices=tuple(BASES))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--work", type=Path, default=Path("damage-work"))
    parser.add_argument("--batch", type=int, default=8, help="candidates of one process")
    parser.add_argument("--few", action="store_true", help="ten kinds, no training")
    parser.add_argument("--again", action="store_true", help="also what has a verdict")
    parser.add_argument("--write", action="store_true", help="append the table to RESULTS.md")
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
    names = args.only or list(BASES)
    if args.action == "table":
        table(names, args)
    else:
        for name in names:
            ACTIONS[args.action](name, args)


if __name__ == "__main__":
    main()
