"""What the gate said beside what is true, and beside two alternatives, as tables."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from results import header, row

DAMAGED = 1.02
"""Times the perplexity elsewhere."""

PASSING = ("pass", "not applicable", "record")

TRUTHS = ("damaged", "mild", "harmless", "training")

PERPLEXITY_RULE = 1.05
"""The alternative that looks at perplexity alone: times the perplexity here, all of the text."""

WEIGHTS_RULE = 0.05
"""The alternative that looks at weights alone: relative change of any tensor."""

ENOUGH_BLOCKS = 64
"""Text blocks that should do for nine of ten verdicts."""


ABOUT = (
    "Damaged is what costs at least 2 % perplexity on a text that the gate does not see, measured",
    "by a plain loop; mild, a kind of damage that costs less (either verdict is right); harmless,",
    "the same function or nearly the same numbers; training, a little more of it on the same text,",
    "vetted with `change = training`. Two rules beside the gate: *perplexity alone* calls damaged",
    "what costs 5 % on the gate's text, *weights alone* what has a tensor that changed by 5 %. A",
    "candidate that is refused is caught.",
)


class Found(NamedTuple):
    """A candidate, what is true of it, and who calls it damaged.

    Attributes:
        base: what it was made from.
        name: of the candidate.
        kind: without its strength.
        truth: ``damaged``, ``mild``, ``harmless``, or ``training``: harmless, another on purpose.
        elsewhere: ratio of perplexities.
        nats: KL divergence here.
        share: of changed predictions here.
        verdict: the gate's; None where it was not asked.
        perplexity: what the alternative that looks at perplexity says.
        weights: what the one that looks at weights says.
        seen: text blocks of each check that looked at any.
        checks: what each of the gate's checks found.
    """

    base: str
    name: str
    kind: str
    truth: str
    elsewhere: float
    nats: float
    share: float
    verdict: str | None
    perplexity: bool
    weights: bool
    seen: tuple[int, ...]
    checks: Mapping[str, Any]

    @property
    def needed(self) -> int:
        """Text blocks until the verdict: the first check that fails, or the last that passes."""
        fails = [n for outcome, _, n in self.checks.values() if n and outcome not in PASSING]
        return min(fails) if fails else max(self.seen)

    def fails(self, check: str) -> bool:
        """Whether one check, in any of its parts, did not pass."""
        return any(
            outcome not in PASSING
            for name, (outcome, *_) in self.checks.items()
            if name.partition(",")[0] == check
        )

    @property
    def caught(self) -> bool:
        """Whether the gate does not let it pass."""
        return self.verdict not in (None, "pass")


def found(records: Mapping[str, Any]) -> Iterator[Found]:
    """All candidates of all checkpoints."""
    for base, own in records.items():
        for name, record in own.items():
            ratio, _, nats, share = map(float, record["here"])
            elsewhere = float(record["elsewhere"][0])
            harmful = "damaged" if elsewhere >= DAMAGED else "mild"
            gate = record.get("gate") or {}
            checks = gate.get("checks", {})
            yield Found(
                base=base,
                name=name,
                kind=name.partition("/")[0],
                truth=harmful if record["group"] == "damage" else record["group"],
                elsewhere=elsewhere,
                nats=nats,
                share=share,
                verdict=gate.get("outcome"),
                perplexity=ratio > PERPLEXITY_RULE,
                weights=float(record["weights"]) > WEIGHTS_RULE,
                seen=tuple(seen for _, _, seen in checks.values() if seen),
                checks=checks,
            )


def by_kind(candidates: Iterable[Found]) -> Iterator[str]:
    """A row per kind and checkpoint: what is true of each strength, and what the gate says."""
    yield from header("kind", "checkpoint", "strength: perplexity elsewhere, the gate's verdict")
    rows: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for each in candidates:
        if each.truth in ("damaged", "mild"):
            rows[each.kind, each.base].append(each)
    for (kind, base), strengths in sorted(rows.items()):
        yield row(kind, base, "; ".join(map(cell, strengths)))


def cell(candidate: Found) -> str:
    """Strength, effect, and the verdict; wrong ones are bold."""
    strength = candidate.name.partition("/")[2]
    verdict = {True: "caught", False: "passes"}[candidate.caught]
    if candidate.verdict == "refused":
        verdict = "refused"
    if candidate.truth == "damaged" and not candidate.caught:
        verdict = "**missed**"
    return f"{strength}: ×{candidate.elsewhere:.4g}, {verdict}"


def score(candidates: Iterable[Found]) -> Iterator[str]:
    """Who catches how many of the damaged, and calls how many of the others damaged."""
    asked = [each for each in candidates if each.verdict is not None]
    yield from header("", "damaged caught", *(f"{name} not passed" for name in TRUTHS[1:]))
    rules = {
        "the gate": [each.caught for each in asked],
        f"perplexity alone, {PERPLEXITY_RULE - 1:.0%}": [each.perplexity for each in asked],
        f"weights alone, {WEIGHTS_RULE:.0%}": [each.weights for each in asked],
    }
    for rule, calls in rules.items():
        cells = []
        for truth in TRUTHS:
            those = [call for each, call in zip(asked, calls, strict=True) if each.truth == truth]
            cells.append(f"{sum(those)} of {len(those)}")
        yield row(rule, *cells)


def wrong(candidates: Iterable[Found]) -> Iterator[str]:
    """Every damage that passed and every harmless candidate that did not, with what was found."""
    for each in candidates:
        missed = each.truth == "damaged" and each.verdict == "pass"
        false_alarm = each.truth in ("harmless", "training") and each.caught
        if missed or false_alarm:
            checks = ", ".join(
                f"{name} {outcome} ({measured})"
                for name, (outcome, measured, _) in each.checks.items()
            )
            word = "missed" if missed else "false alarm"
            yield f"- {word}: {each.base}, {each.name} (×{each.elsewhere:.4g} elsewhere): {checks}"


def by_check(candidates: Sequence[Found]) -> Iterator[str]:
    """A row per check of the gate: what it alone does not let pass."""
    yield from header("check", *TRUTHS)
    asked = [each for each in candidates if each.checks]
    names = dict.fromkeys(name.partition(",")[0] for each in asked for name in each.checks)
    for check in names:
        cells = []
        for truth in TRUTHS:
            those = [each for each in asked if each.truth == truth]
            cells.append(f"{sum(each.fails(check) for each in those)} of {len(those)}")
        yield row(f"`{check}`", *cells)


def blocks(candidates: Sequence[Found]) -> Iterator[str]:
    """How many text blocks verdicts took: those of checks, and those on candidates."""
    for truths in (("damaged", "harmless", "training"), ("mild",)):
        some = [each for each in candidates if each.truth in truths and each.seen]
        checks = spread(n for each in some for n in each.seen)
        yield f"- {', '.join(truths)}: {checks} of the checks' verdicts"
        yield f"- {', '.join(truths)}: {spread(each.needed for each in some)} of the candidates'"


def spread(seen: Iterable[int]) -> str:
    """How many text blocks they took."""
    seen = sorted(seen)
    if not seen:
        return "none"
    few = sum(n <= ENOUGH_BLOCKS for n in seen)
    return (
        f"at most {ENOUGH_BLOCKS} text blocks: {few} of {len(seen)} ({few / len(seen):.0%}; median "
        f"{seen[len(seen) // 2]}, nine of ten {seen[math.ceil(0.9 * len(seen)) - 1]})"
    )


class Parting(NamedTuple):
    """A number between what is harmless and what is damage, and how clean the cut is.

    Attributes:
        harmless: the largest value of anything harmless.
        damaged: the smallest of anything damaged.
        cut: the threshold with the fewest errors, the middle (geometric) of its gap.
        missed: damaged candidates below it.
        alarms: harmless ones above it.
    """

    harmless: float
    damaged: float
    cut: float
    missed: int
    alarms: int


def parting(candidates: Iterable[Found], measure: str) -> Parting:
    """Where ``nats`` or ``share`` parts best the damaged from the harmless (not: trained)."""
    every = [(each.truth, max(0.0, getattr(each, measure))) for each in candidates]
    bad = sorted(value for truth, value in every if truth == "damaged")
    good = sorted(value for truth, value in every if truth == "harmless")
    edges = sorted({value for value in bad + good if value > 0 and math.isfinite(value)})

    def errors(cut: float) -> tuple[int, int]:
        return sum(value < cut for value in bad), sum(value >= cut for value in good)

    gaps = [(math.sqrt(a * b), b / a) for a, b in pairwise(edges)]
    cut, _ = min(gaps, key=lambda gap: (sum(errors(gap[0])), -gap[1]))
    missed, alarms = errors(cut)
    return Parting(good[-1], bad[0], cut, missed, alarms)


def partings(candidates: Sequence[Found]) -> Iterator[str]:
    """A line for each measure: where it parts them."""
    if not {"damaged", "harmless"} <= {each.truth for each in candidates}:
        return
    bases = ", ".join(dict.fromkeys(each.base for each in candidates))
    for measure, unit in (("nats", "nats"), ("share", "of the predictions")):
        at = parting(candidates, measure)
        yield (
            f"- {bases}: harmless up to {at.harmless:.3g}, damaged from {at.damaged:.3g} {unit}; "
            f"best cut {at.cut:.3g}: {at.missed} missed, {at.alarms} false alarms"
        )
