"""``robustness compare``: where a candidate differs from its reference, by files and by running."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.resolving import resolve
from robustness.cli import console
from robustness.cli.console import AllowPickle, Base, LiveLine, Stack, Store, Tokenizer, given
from robustness.policy.policy import Policy, load_policy
from robustness.reference.location import TEXT_BLOCKS, located
from robustness.reference.vocabulary import require_same_vocabulary
from robustness.report.compared import SCHEMA, Compared, Side
from robustness.report.reporters import REPORTERS
from robustness.report.terminal.compared import lines_of
from robustness.runtime.plain import is_encodable, plain
from robustness.store.context import Context
from robustness.vetting import Vetting

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.checkpoint.reading import ReadOptions

Candidate = Annotated[
    str, typer.Argument(metavar="CANDIDATE", help="A folder, a Hub id, a .gguf file, or pkg:….")
]
Reference = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="What it was made from, in any of these forms.")
]
Corpus = Annotated[
    str | None, typer.Option(help="The text to run both on (default: the policy's, or built in).")
]
TextBlocks = Annotated[int, typer.Option(min=1, help="Text blocks that both are run on.")]
EveryLayer = Annotated[
    bool, typer.Option("--every-layer", help="Go on from every layer, also of a deep model.")
]
FilesOnly = Annotated[bool, typer.Option("--files-only", help="Run neither: read the files alone.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers as JSON.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with figures, one file.")
]
PolicyFile = Annotated[Path | None, typer.Option(help="TOML file with corpus, device, masking …")]


def compare(
    candidate: Candidate,
    reference: Reference,
    *,
    corpus: Corpus = None,
    text_blocks: TextBlocks = TEXT_BLOCKS,
    files_only: FilesOnly = False,
    every_layer: EveryLayer = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    stack: Stack = "auto",
    allow_pickle: AllowPickle = None,
    base: Base = None,
    tokenizer: Tokenizer = None,
    policy: PolicyFile = None,
    store: Store = None,
) -> None:
    """Show where a candidate differs from its reference: tensor by tensor, layer by layer.

    The files are compared without a model, and what looks like damage is
    named; then both run on a few text blocks: how far each layer's output
    moved, what its own part is, and what the reference's state there
    restores.

    Exit code 0: compared, whatever was found; 2: a checkpoint cannot be used.
    """
    line = LiveLine()
    with console.refusing(written="a report"):
        if html_file is not None:
            REPORTERS["html"].require_packages()
        read = given(allow_pickle=allow_pickle, base=base, tokenizer=tokenizer)
        settings = load_policy(policy, options={**read, **given(stack=stack, corpus=corpus)})
        context = Context(root=console.store_root(store), progress=line.show)
        how: How = {
            "text_blocks": text_blocks,
            "files_only": files_only,
            "every_layer": every_layer,
        }
        try:
            found = _compared((candidate, reference), settings, context, how)
        finally:
            line.clear()
        _write(found, json_file, html_file)
    console.show("\n".join(lines_of(found, unicode=is_encodable("█", sys.stdout.encoding))))
    for file in filter(None, (json_file, html_file)):
        console.show(plain(f"robustness: wrote {file}"))


def _write(found: Compared, json_file: Path | None, html_file: Path | None) -> None:
    if json_file is not None:
        facts = {"schema": SCHEMA, **found.model_dump(mode="json")}
        console.write_file(json_file, json.dumps(facts, indent=2, allow_nan=False) + "\n")
    if html_file is not None:
        from robustness.report.html.compared import to_html

        console.write_file(html_file, to_html(found))


class How(TypedDict):
    """What `located` is asked for."""

    text_blocks: int
    files_only: bool
    every_layer: bool


def _compared(pair: tuple[str, str], policy: Policy, context: Context, how: How) -> Compared:
    label = CheckpointRef.parse(pair[0]).label
    settings = policy.settings(pair[0], label)

    def resolved(reference: str, read: "ReadOptions") -> "Checkpoint":
        return resolve(
            reference,
            cache=context.root,
            progress=context.progress,
            check_memory=not how["files_only"],
            options=read,
        )

    ours = resolved(pair[0], settings.read_options)
    theirs = resolved(pair[1], settings.read_options.of_others)
    require_same_vocabulary(ours, theirs, context)
    vetting = Vetting(checkpoint=ours, settings=settings, context=context)
    if not how["files_only"] and ours.identity != theirs.identity:
        vetting.corpus  # noqa: B018 (what is wrong with it is no note beside a result)
    location = located(vetting, theirs, **how)
    return Compared(
        candidate=Side.of(ours),
        reference=Side.of(theirs),
        corpus=None if location.states is None else vetting.corpus.description,
        scoring=ours.scoring,
        location=location,
    )
