"""What every rule finds in the checkpoints at hand, and what ablating that does at every site.

    python benchmarks/rules.py [--shared ../shared] [--only NAME] [--model MODEL]
                               [--text-blocks 8] [--degradation-chunks 2] [--write]

Each rule with its default settings, and ``puccetti`` as coded and as its paper describes it. Rules
on activations read the first text blocks of the seeded order; what they find depends on the text.
Degradations are those of all dimensions that a rule found, ablated together at each site that the
model has, by zero and by the mean, on the first chunks of 16 text blocks. The two tables are
printed, or appended to RESULTS.md.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.resolving import resolve
from robustness.errors import RuleError, UnsupportedSite
from robustness.measurement.measure import Measurement
from robustness.outliers.outliers import Detection
from robustness.outliers.rules import RULES
from robustness.policy.policy import load_policy
from robustness.report.collected import PACKAGES
from robustness.store.context import Context
from robustness.vetting import Vetting

sys.path.insert(0, str(Path(__file__).parent))
from results import conditions, header, keep, row, section, versions_of
from vet_checkpoints import checkpoints

DIMENSIONS = 24
"""Listed at most in a cell."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in RULES if name != "puccetti"
} | {
    "puccetti (code)": ("puccetti", {"puccetti": {"variant": "code"}}),
    "puccetti (paper)": ("puccetti", {"puccetti": {"variant": "paper"}}),
}
"""Row's name to the rule and its settings."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one rule said of one checkpoint."""

    checkpoint: str
    rule: str
    found: Detection | str
    seconds: float

    def __str__(self) -> str:
        if isinstance(self.found, str):
            return row(self.checkpoint, self.rule, f"says nothing: {self.found}", "", "")
        shown = _shown(self.found.dims)
        chance = self.found.by_chance
        expected = "not defined" if chance is None else f"{chance:.2g}"
        asks = self.found.rule.partition(": ")[2].replace("|", "\\|")
        return row(self.checkpoint, self.rule, shown, expected, asks)


def answers(
    name: str, model: str, corpus: str, *, text_blocks: int, store: Path
) -> Iterator[Answer]:
    """Ask every rule about one checkpoint."""
    checkpoint = resolve(model, cache=store)
    for variant, (rule, settings) in sorted(VARIANTS.items(), key=_order):
        options = {"corpus": corpus, "rules": {"text_blocks": text_blocks, **settings}}
        vetting = Vetting(
            checkpoint=checkpoint,
            settings=load_policy(None, options=options).settings(model),
            context=Context(root=store),
        )
        began = time.perf_counter()
        found: Detection | str
        try:
            found = vetting.outliers(rule=rule).detection
        except (RuleError, UnsupportedSite) as error:
            found = str(error)
        seconds = time.perf_counter() - began
        yield Answer(checkpoint=name, rule=variant, found=found, seconds=seconds)


def degradations(
    name: str, model: str, corpus: str, found: Sequence[Answer], *, chunks: int, store: Path
) -> Iterator[str]:
    """Rows of the second table: what ablating each rule's dimensions does at each site."""
    rules: dict[tuple[int, ...], list[str]] = {}
    for answer in found:
        if not isinstance(answer.found, str) and answer.found.dims:
            rules.setdefault(answer.found.dims, []).append(answer.rule)
    settings = load_policy(None, options={"corpus": corpus}).settings(model)
    vetting = Vetting(
        checkpoint=resolve(model, cache=store), settings=settings, context=Context(root=store)
    )
    measurement = vetting.measurement
    for dims, names in rules.items():
        for site in vetting.model_profile.sites:
            ratios = [
                _ratio(measurement, vetting.ablate(dims, site=site, mode=mode).ablation, chunks)
                for mode in ("zero", "mean")
            ]
            figures = (f"{ratio:.4g}" for ratio in ratios)
            yield row(name, ", ".join(names), _shown(dims), site, *figures)


def _ratio(measurement: Measurement, ablation: Ablation, chunks: int) -> float:
    """Degradation on the first chunks."""
    delta, tokens = 0.0, 0
    for index in range(min(chunks, measurement.n_chunks)):
        intact, ablated = measurement.chunk(index, Intact(), FixedAblation(ablation=ablation))
        delta += float((ablated.nll_nats - intact.nll_nats).sum())
        tokens += int(intact.tokens.sum())
    return math.exp(min(delta / tokens, 700.0))


def _shown(dims: Sequence[int]) -> str:
    shown = ", ".join(map(str, dims[:DIMENSIONS])) or "none"
    return f"{shown} and {len(dims) - DIMENSIONS} more" if len(dims) > DIMENSIONS else shown


def _order(item: tuple[str, tuple[str, dict[str, Any]]]) -> int:
    return list(RULES).index(item[1][0])


def main() -> None:
    """Ask and print, or append to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", help="checkpoints whose name contains this")
    parser.add_argument("--model", help="another one instead, on the built-in corpus")
    parser.add_argument("--text-blocks", type=int, default=8, help="that rules on activations read")
    parser.add_argument(
        "--degradation-chunks", type=int, default=2, help="of 16 text blocks; 0 for detection only"
    )
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    table: list[Answer] = []
    harm: list[str] = []
    chunks = arguments.degradation_chunks
    given = {arguments.model: (arguments.model, "builtin")}
    asked_about = given if arguments.model else checkpoints(arguments.shared.resolve())
    with tempfile.TemporaryDirectory() as store:
        for name, (model, corpus) in asked_about.items():
            if arguments.only is None or arguments.only in name:
                asked = answers(
                    name, model, corpus, text_blocks=arguments.text_blocks, store=Path(store)
                )
                found = []
                for answer in asked:
                    print(answer, f"{answer.seconds:.1f} s", flush=True)
                    found.append(answer)
                table += found
                if chunks:
                    for line in degradations(
                        name, model, corpus, found, chunks=chunks, store=Path(store)
                    ):
                        print(line, flush=True)
                        harm.append(line)
    if not table:
        parser.error("no such checkpoint is there; name the folder with --shared")
    versions = versions_of(name for name in PACKAGES if name != "pytest-xdist")
    text = section(
        f"{conditions(versions)}; {arguments.text_blocks} text blocks",
        *header("checkpoint", "rule", "dimensions", "by chance", "what it asks for"),
        *map(str, table),
        "",
        f"Degradation on the first {16 * chunks} text blocks, a rule's dimensions together:",
        "",
        *header("checkpoint", "rules", "dimensions", "site", "by zero", "by the mean"),
        *harm,
    )
    keep(text, write=arguments.write)


if __name__ == "__main__":
    main()
