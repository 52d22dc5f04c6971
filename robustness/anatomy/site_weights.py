"""Scales and biases at a checkpoint's output sites, found and read without building the model.

Where the sites are is remembered per configuration (`recorded`); what stands there, by the files'
time stamps, so that nothing is read a second time. Neither the tokenizer nor the content hash of
gigabytes is needed for that.
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.parameters import SiteParameters, site_parameters
from robustness.anatomy.recorded import recorded_layout
from robustness.anatomy.stacks import Anatomy, SiteKind, StackChoice
from robustness.checkpoint.accounting import require_one_value
from robustness.checkpoint.gguf.header import SAFETENSORS_INSTEAD, gguf_files
from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.reading import PLAIN, ReadOptions
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.resolving import fetch, unpacked
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.weights import read_tensors, surplus_notes
from robustness.errors import CheckpointError
from robustness.runtime.libraries import library_versions
from robustness.store.context import Context
from robustness.store.hashing import file_stamps
from robustness.store.store import Record

WEIGHTS = 5
"""Version of what is remembered; part of its identity in the store."""


@dataclass(frozen=True, kw_only=True)
class SiteWeights:
    """What rules on weights look at.

    Attributes:
        architecture: Name of the transformers class.
        stack: Role of the stack: ``only``, ``encoder`` or ``decoder``.
        kind: What the sites are, see `robustness.anatomy.stacks.Site`.
        parameters: Their scales and biases.
        revision: Of a Hub checkpoint, its commit.
        notes: On how the reference was resolved.
    """

    architecture: str
    stack: str
    kind: SiteKind
    parameters: SiteParameters
    revision: str | None = None
    notes: tuple[str, ...] = ()


def site_weights(
    reference: str,
    *,
    stack: StackChoice = "auto",
    context: Context,
    options: ReadOptions = PLAIN,
) -> SiteWeights:
    """Find a checkpoint's output sites and read their parameters, or recall them.

    Raises:
        CheckpointError: It cannot be found or reached, is damaged or changes, or lacks weights of
            its sites.
        UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output sites.
    """
    ref = CheckpointRef.parse(reference)
    found = fetch(ref, context.progress, options)
    path = found.folder
    if path.is_file():
        files = gguf_files(path)
        record = _recalled(files, stack, context, lambda: _read_gguf(path, stack, context))
    else:
        found = unpacked(found, ref, context.root, context.progress, options)
        record = _read_folder(found.folder, stack, context, what=reference)
    return _from_record(record, found.revision, [note for note in [ref.note, *found.notes] if note])


def _read_folder(folder: Path, stack: StackChoice, context: Context, *, what: str) -> Record:
    """The record of a folder of safetensors files."""
    tensors = read_tensors(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a complete checkpoint.")

    def measure() -> Record:
        layout = recorded_layout(folder, tensors, stack, context, what=what)
        stored: Mapping[str, str] = layout["stored"]

        def tensor(name: str) -> NDArray[Any]:
            info = tensors.get(stored.get(name, name))
            if info is None:
                raise CheckpointError(
                    f"{what} lacks the weights {name!r} that {layout['architecture']} needs, or "
                    "stores them in another form: give a checkpoint as save_pretrained() writes it."
                )
            return read_values(info)

        require_one_value(layout["twice"], tensors, what=what)
        record = _to_record(layout["architecture"], layout["anatomy"], tensor)
        return {**record, "notes": layout["notes"]}

    files = {info.file for info in tensors.values()}
    record = _recalled((*files, config), stack, context, measure)
    return {**record, "notes": [*record["notes"], *surplus_notes(folder, tensors)]}


def _read_gguf(file: Path, stack: StackChoice, context: Context) -> Record:
    """The record of a GGUF file: converting it whole would take minutes."""
    from robustness.anatomy.anatomy import few_tokens, trace_anatomy
    from robustness.checkpoint.gguf.header import read_gguf_header
    from robustness.checkpoint.gguf.model import GgufModel
    from robustness.checkpoint.verification import embedding_rows

    context.progress("tracing the model's skeleton")
    with loading_errors(f"The GGUF file {file}", advice=SAFETENSORS_INSTEAD):
        model = GgufModel.of(file, read_gguf_header(file))
        tokens = few_tokens(model.skeleton, embedding_rows(model.skeleton))
        anatomy = trace_anatomy(model.skeleton, tokens, stack=stack)
        return _to_record(type(model.skeleton).__name__, anatomy.to_dict(), model.tensor)


def _to_record(
    architecture: str, anatomy: Mapping[str, Any], tensor: Callable[[str], NDArray[Any]]
) -> Record:
    """Read what stands at the sites, in JSON types; numbers exactly."""
    stack = Anatomy.from_dict(anatomy).stack
    parameters = site_parameters(stack, tensor)
    kinds = {site.kind for site in stack.rule_sites}
    return {
        "architecture": architecture,
        "stack": stack.role,
        "kind": kinds.pop() if len(kinds) == 1 else "writer",
        "shape": list(parameters.scale.shape),
        "scale": _to_text(parameters.scale),
        "bias": None if parameters.bias is None else _to_text(parameters.bias),
        "distinct_sites": parameters.distinct_sites,
    }


def _from_record(record: Record, revision: str | None, notes: Iterable[str]) -> SiteWeights:
    shape = record["shape"]
    bias = record["bias"]
    return SiteWeights(
        architecture=record["architecture"],
        stack=record["stack"],
        kind=record["kind"],
        parameters=SiteParameters(
            scale=_from_text(record["scale"], shape),
            bias=None if bias is None else _from_text(bias, shape),
            distinct_sites=record["distinct_sites"],
        ),
        revision=revision,
        notes=(*notes, *record.get("notes", ())),
    )


def _recalled(
    files: Iterable[Path], stack: StackChoice, context: Context, measure: Callable[[], Record]
) -> Record:
    """What was read from files that have not changed since, or is now."""
    files = tuple(files)
    stamps, settled = file_stamps(files)
    identity = {"site_weights": WEIGHTS, "files": stamps, "versions": library_versions()}
    if not settled:
        record = measure()
    else:
        store = context.store(identity)
        (record,) = store.obtain([{"stack": stack}], lambda _: _unless_changed(files, measure))
    return record


def _unless_changed(files: tuple[Path, ...], measure: Callable[[], Record]) -> Record:
    before, _ = file_stamps(files)
    record = measure()
    if file_stamps(files)[0] != before:
        raise CheckpointError(
            f"{files[0].parent} changed while it was read: scan a folder that nobody writes to."
        )
    return record


def _to_text(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _from_text(text: str, shape: list[int]) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(shape)
