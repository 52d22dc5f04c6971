"""Scales and biases at a checkpoint's output sites, found and read without building the model.

Two things are remembered in the store: where the sites are, by config and by names and shapes of
the tensors, so that all checkpoints of one run are traced once; and what stands there, by the
files' time stamps, so that nothing is read, and no torch imported, a second time. Neither the
tokenizer nor the content hash of gigabytes is needed for that.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.parameters import SiteParameters, site_parameters
from robustness.anatomy.stacks import Anatomy, Site, StackChoice
from robustness.checkpoint.checkpoint import locate, refuse_adapters
from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.weights import TensorInfo, read_tensors
from robustness.errors import CheckpointError
from robustness.runtime.libraries import library_versions
from robustness.store.hashing import file_stamps
from robustness.store.store import Record, Store, digest

LAYOUT = 1
WEIGHTS = 1
"""Versions of what is remembered; part of its identity in the store."""

Progress = Callable[[str], None]
Tensor = Callable[[str], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class SiteWeights:
    """What rules on weights look at.

    Attributes:
        architecture: Name of the transformers class.
        stack: Role of the stack: ``only``, ``encoder`` or ``decoder``.
        kind: ``norm`` where the sites are normalisations, ``writer`` where they are what is added
            to the residual stream last.
        parameters: Their scales and biases.
        revision: Of a Hub checkpoint, its commit.
        notes: On how the reference was resolved.
    """

    architecture: str
    stack: str
    kind: Literal["norm", "writer"]
    parameters: SiteParameters
    revision: str | None = None
    notes: tuple[str, ...] = ()


def site_weights(
    reference: str,
    *,
    stack: StackChoice = "auto",
    store_root: Path,
    progress: Progress = lambda _: None,
) -> SiteWeights:
    """Find a checkpoint's output sites and read their parameters, or recall them.

    Args:
        reference: A Hub id, a folder, a ``.gguf`` file, or ``pkg:package/path``.
        stack: Which stack, of several.
        store_root: Folder of the store.
        progress: Told in a short phrase when a long step starts.

    Raises:
        CheckpointError: It cannot be found or reached, is damaged or changes, or lacks weights of
            its sites.
        UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output sites.
    """
    ref = CheckpointRef.parse(reference)
    path = Path(ref.target)
    if ref.kind != "hub" and path.is_file():
        from robustness.anatomy.gguf_slices import read_gguf

        record = _recalled(
            (path,), stack, store_root, lambda: read_gguf(path, stack, store_root, progress)
        )
        return _from_record(record, None, [note for note in [ref.note] if note])
    folder, revision, notes = locate(ref, store_root, progress)
    refuse_adapters(folder, reference)
    record = read_folder(folder, stack, store_root, what=reference, progress=progress)
    return _from_record(record, revision, [note for note in [ref.note, *notes] if note])


def read_folder(
    folder: Path, stack: StackChoice, store_root: Path, *, what: str, progress: Progress
) -> Record:
    """The record of a folder of safetensors files."""
    tensors = read_tensors(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a complete checkpoint.")

    def measure() -> Record:
        layout = _layout(folder, tensors, stack, store_root, what, progress)
        stored: Mapping[str, str] = layout["stored"]

        def tensor(name: str) -> NDArray[Any]:
            info = tensors.get(stored.get(name, name))
            if info is None:
                raise CheckpointError(
                    f"{what} lacks the weights {name!r} that {layout['architecture']} needs, or "
                    "stores them in another form: give a checkpoint as save_pretrained() writes it."
                )
            return read_values(info)

        return to_record(layout["architecture"], layout["anatomy"], tensor)

    files = {info.file for info in tensors.values()}
    return _recalled((*files, config), stack, store_root, measure)


def to_record(architecture: str, anatomy: Mapping[str, Any], tensor: Tensor) -> Record:
    """Read what stands at the sites, in JSON types; numbers exactly."""
    stack = Anatomy.from_dict(anatomy).stack
    parameters = site_parameters(stack, tensor)
    kinds = {site.kind for site in stack.sites}
    return {
        "architecture": architecture,
        "stack": stack.role,
        "kind": "norm" if kinds == {"norm"} else "writer",
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
        notes=tuple(notes),
    )


def _recalled(
    files: Iterable[Path], stack: StackChoice, store_root: Path, measure: Callable[[], Record]
) -> Record:
    """What was read from files that have not changed since, or is now."""
    files = tuple(files)
    stamps, settled = file_stamps(files)
    context = {"site_weights": WEIGHTS, "files": stamps, "versions": library_versions()}
    if not settled:
        record = measure()
    else:
        store = Store(store_root, context)
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


def _layout(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    stack: StackChoice,
    store_root: Path,
    what: str,
    progress: Progress,
) -> Record:
    """Where the sites are, and what their parameters are called in the files."""
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    names = digest({name: list(info.shape) for name, info in tensors.items()})
    store = Store(store_root, {"layout": LAYOUT, "versions": library_versions()})
    key = {"config": config, "tensors": names, "stack": stack}

    def trace(_: object) -> Record:
        progress("tracing the model's skeleton")
        return _traced(folder, tensors, stack, what)

    (record,) = store.obtain([key], trace)
    return record


def _traced(
    folder: Path, tensors: Mapping[str, TensorInfo], stack: StackChoice, what: str
) -> Record:
    from robustness.checkpoint.architecture import candidates
    from robustness.checkpoint.skeleton import map_names
    from robustness.checkpoint.verification import load_config

    config = load_config(folder, what=what)
    architecture = candidates(config, what=what)[0]
    skeleton, anatomy = traced(config, architecture.name, stack, what)
    names = map_names(skeleton, tensors)
    sites = [site for one in anatomy.stacks for site in one.output_sites]
    parameters = {name for site in sites for name in parameters_of(site)}
    if names is not None:
        for name, found, expected in names.mismatched:
            if name in parameters:
                raise CheckpointError(
                    f"{what} does not match its config.json: {name} is {list(found)} in the files, "
                    f"{architecture.name} needs {list(expected)}; restore the config the weights "
                    "were saved with."
                )
    known = {} if names is None else names.stored
    return {
        "architecture": architecture.name,
        "anatomy": anatomy.to_dict(),
        "stored": {name: known[name] for name in sorted(parameters) if name in known},
    }


def traced(config: Any, architecture: str, stack: StackChoice, what: str) -> tuple[Any, Anatomy]:
    """A skeleton of a class, and its anatomy."""
    from robustness.anatomy.anatomy import trace_anatomy
    from robustness.checkpoint.architecture import model_class
    from robustness.checkpoint.skeleton import build_skeleton
    from robustness.checkpoint.verification import embedding_rows
    from robustness.outliers.model_profile import few_tokens

    skeleton = build_skeleton(model_class(architecture), config, what=what)
    with loading_errors(f"The config.json of {what}"):
        tokens = few_tokens(skeleton, embedding_rows(skeleton))
        return skeleton, trace_anatomy(skeleton, tokens, stack=stack)


def parameters_of(site: Site) -> tuple[str, ...]:
    """Names of a site's scale and, where it has one, bias."""
    return (site.scale,) if site.bias is None else (site.scale, site.bias)


def _to_text(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _from_text(text: str, shape: list[int]) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(shape)
