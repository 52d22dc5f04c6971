"""What ``robustness compare`` shows, in lines of at most 80 columns."""

import textwrap
from collections.abc import Iterator

from robustness.report.compared import Compared, Side
from robustness.report.words import counted, figure
from robustness.runtime.plain import plain
from robustness.scoring.quantity import quantity
from robustness.statistics.location import ENTERING, StateChanges, WeightChanges, percent

WIDTH = 80
BAR = 12
"""Signs of the longest bar."""
TENSORS = 8
NAMES = 4
"""Listed at most; the JSON has more."""


def lines_of(compared: Compared, *, unicode: bool) -> list[str]:
    """Return the report, what matters most first; bars need a ``unicode`` terminal."""
    lines = [*_wrapped(compared.headline), ""]
    lines += [*_side("candidate", compared.candidate), *_side("reference", compared.reference)]
    location = compared.location
    if location.weights is not None:
        lines += ["", *_files(location.weights)]
    if location.states is not None:
        lines += ["", *_text(compared, location.states, "█" if unicode else "#")]
    for note in location.notes:
        lines += ["", *_wrapped(f"note: {note}")]
    return [plain(line, limit=None).rstrip() for line in lines]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False
    )


def _side(what: str, side: Side) -> list[str]:
    return _wrapped(f"{what}  {side.reference} at {side.revision[:19]} ({side.architecture})")


def _files(weights: WeightChanges) -> Iterator[str]:
    which = f" ({weights.which})" if weights.which else ""
    other = ", and the tokenizer's files do" if weights.tokenizer else ""
    yield from _wrapped(
        f"files: {weights.changed} of {counted(weights.tensors, 'tensor')} differ{which}{other}"
    )
    for words in (*weights.patterns, *weights.settings, *weights.precision):
        yield from _wrapped(f"- {words}", "  ")
    if weights.largest:
        shown = weights.largest[:TENSORS]
        width = min(WIDTH - 22, max(len(each.name) for each in shown))
        yield f"  {'tensor':{width}}  relative change"
        for each in shown:
            name = each.name if len(each.name) <= width else f"...{each.name[3 - width :]}"
            yield f"  {name:{width}}  {percent(each.relative):>15}"
        if weights.changed > TENSORS:
            yield f"  and {weights.changed - TENSORS} more; --json has {len(weights.largest)}"
    for names, who in (
        (weights.only_candidate, "candidate"),
        (weights.only_reference, "reference"),
    ):
        if names:
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            yield from _wrapped(f"  only the {who} has {', '.join(names[:NAMES])}{more}", "  ")


def _text(compared: Compared, states: StateChanges, sign: str) -> Iterator[str]:
    name, (ours, theirs) = quantity(compared.scoring).name, compared.figures
    yield from _wrapped(
        f"text: {name} {figure(ours)}, the reference's {figure(theirs)} ({states.harm_nats:+.4f} "
        f"nats per token; {counted(states.text_blocks, 'text block')}, "
        f"{counted(states.tokens, 'scored token')} of {compared.corpus})"
    )
    most = max((each.moved for each in states.layers if each.moved < float("inf")), default=0.0)
    yield f"  {'':9}  {'moved':>7}  {'':{BAR}}  {'cosine':>7}  {'own change':>10}  {'restores':>8}"
    for each in states.layers:
        bar = sign * round(BAR * min(each.moved / most, 1.0)) if most else ""
        own = "-" if each.own is None else percent(each.own)
        mark = "*" if each.layer == states.first else " "
        share = states.restored(each)
        restores = "-" if share is None else f"{100 * share:.0f} %"
        place = "embedding" if each.layer == ENTERING else f"layer {each.layer}"
        yield (
            f"  {place:9}  {percent(each.moved):>7}  {bar:{BAR}}  {each.cosine:>7.4f}  "
            f"{own:>9}{mark}  {restores:>8}"
        )
    yield from _wrapped(
        "moved: of the hidden state, relative L2; own change: of what the layer adds, on the "
        "reference's input (*: the first that stands out); restores: the share of the harm that "
        "is gone if the candidate goes on from the reference's state there",
        "  ",
    )
