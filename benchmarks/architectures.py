"""Which of transformers' text classes can be scanned and vetted: a tiny random model of each.

    python benchmarks/architectures.py [--only REGEX] [--headless] [--seconds 60] [--write]

Every class that the tables for causal, masked and sequence-to-sequence language models,
pre-training and text encoders name, and, if asked for, every text model without a head. Each is
built from its default configuration, shrunken, saved to a folder with a tokenizer of words,
scanned, and vetted: one chunk of text is measured intact and with one feature ablated. Each in a
process of its own, with a limit of time and memory. What is not vetted is listed with the one
sentence that says why, or as a traceback, which would be a defect. Printed, or appended to
RESULTS.md.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.loading import quiet
from robustness.checkpoint.reading import ReadOptions
from robustness.errors import NoLanguageModel, RobustnessError
from robustness.outliers.rules.settings import Rules
from robustness.outliers.scanning import scan
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting

sys.path.insert(0, str(Path(__file__).parent))
from architectures_tiny import save, text_classes
from results import conditions, header, keep, row, section, versions_of

MEMORY = 12 << 30
TEXT_BLOCK = 24
NOT_BUILT = "not built tiny"
TRACEBACK = "traceback"
LATE = "out of time"
NO_HEAD = "no language-model head"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one class: of each step ``ok``, or what prevented it."""

    name: str
    scanned: str
    vetted: str


def examine(name: str, folder: Path) -> Outcome:
    """Build, scan and vet a tiny model of one class."""
    try:
        with quiet():
            save(folder, name)
    except Exception as error:
        return Outcome(name=name, scanned=NOT_BUILT, vetted=f"{NOT_BUILT}: {_one_line(error)}")
    steps = (lambda: _scan(folder), lambda: _vet(folder))
    scanned, vetted = (_attempt(step, name, folder) for step in steps)
    return Outcome(name=name, scanned=scanned, vetted=vetted)


def _attempt(step: Callable[[], None], name: str, folder: Path) -> str:
    try:
        step()
    except RobustnessError as error:
        if isinstance(error, NoLanguageModel) and NO_HEAD in str(error):
            return NO_HEAD
        return str(error).replace(str(folder / "model"), "X").replace(name, "CLASS")
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{TRACEBACK}: {_one_line(error)} ({Path(where.filename).name}:{where.lineno})"
    return "ok"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160].replace("|", "/")


def _scan(folder: Path) -> None:
    scan(
        str(folder / "model"),
        label="model",
        rules=Rules(),
        context=Context(root=folder / "store"),
        options=ReadOptions(tokenizer=str(folder / "tokenizer")),
    )


def _vet(folder: Path) -> None:
    text = folder / "text.txt"
    text.write_text(" ".join(f"w{n}" for n in np.random.default_rng(0).integers(0, 90, 1200)))
    options = {"corpus": str(text), "block_size": TEXT_BLOCK}
    policy = load_policy(None, options={**options, "tokenizer": str(folder / "tokenizer")})
    context = Context(root=folder / "store")
    (planned,) = make_plan([str(folder / "model")], policy, context).checkpoints
    vetting = Vetting(
        checkpoint=planned.load(),
        settings=planned.settings,
        model_profile=planned.model_profile,
        context=context,
    )
    ablation = FixedAblation(ablation=Ablation(dims=(3,), site=planned.settings.site))
    intact, ablated = vetting.measurement.chunk(0, Intact(), ablation)
    if not np.isfinite([*intact.nll_nats, *ablated.nll_nats]).all():
        raise ArithmeticError("the measured numbers are not finite")
    if np.allclose(intact.nll_nats, ablated.nll_nats, rtol=1e-9):
        raise ArithmeticError("ablating a feature changes nothing")


def in_its_own_process(name: str, seconds: float) -> Outcome:
    """Examine one class where it can neither take too long, nor too much memory."""
    forks: Any = multiprocessing.get_context("fork")  # what is imported here is imported there
    mine, theirs = forks.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = forks.Process(target=_child, args=(theirs, name, Path(folder)))
        process.start()
        theirs.close()
        outcome = Outcome(name=name, scanned=LATE, vetted=LATE)
        if mine.poll(seconds):
            with contextlib.suppress(EOFError):  # it died without a word
                outcome = mine.recv()
        process.kill()
        process.join()
    return outcome


def _child(answers: Connection, name: str, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with (folder / "stderr").open("w") as stream:
        os.dup2(stream.fileno(), 2)
        outcome = examine(name, folder)
    answers.send(outcome)


def lines_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Counts, and every sentence with the classes that it was said of."""
    kinds = Counter((kind_of(one.scanned), kind_of(one.vetted)) for one in outcomes)
    yield from header("scanned", "vetted", "classes")
    for (scanned, vetted), count in kinds.most_common():
        yield row(scanned, vetted, count)
    for step in ("scanned", "vetted"):
        said: dict[str, list[str]] = defaultdict(list)
        for one in outcomes:
            if getattr(one, step) not in ("ok", NO_HEAD):
                said[getattr(one, step)].append(one.name)
        if step == "vetted":
            known = {(one.name, one.scanned) for one in outcomes}
            said = {
                sentence: names
                for sentence, names in said.items()
                if any((name, sentence) not in known for name in names)
            }
        yield from ("", f"Not {step}, and why:", "", *header("what is said", "classes"))
        for sentence, names in sorted(said.items(), key=lambda item: (-len(item[1]), item[0])):
            yield row(re.sub(r"[*_|<>]", r"\\\g<0>", sentence), ", ".join(names))


def kind_of(what: str) -> str:
    """A step's outcome in a word or two."""
    fixed = ("ok", NO_HEAD, LATE)
    if what in fixed:
        return what
    return next((kind for kind in (NOT_BUILT, TRACEBACK) if what.startswith(kind)), "refused")


def main() -> None:
    """Examine all classes, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=".*", help="a pattern of class names")
    parser.add_argument("--headless", action="store_true", help="also models without a head")
    parser.add_argument("--seconds", type=float, default=60, help="time limit of one class")
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    outcomes = []
    for name in text_classes(headless=given.headless):
        if re.search(given.only, name):
            outcomes.append(in_its_own_process(name, given.seconds))
            print(outcomes[-1], file=sys.stderr, flush=True)
    about = conditions(versions_of(["torch", "transformers", "tokenizers", "numpy"]))
    counted = f"{len(outcomes)} classes, each with a limit of {given.seconds:g} s."
    keep(section(about, counted, "", *lines_of(outcomes)), write=given.write)


if __name__ == "__main__":
    main()
