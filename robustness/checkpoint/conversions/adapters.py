"""Adapters (PEFT): merged into their base model once, by `peft`, into a folder of the store.

Whether the merge is what the adapter means is seen by running both: before and after it the model
must say the same.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from robustness.checkpoint.architecture import Architecture, candidates, model_class
from robustness.checkpoint.config import load_config
from robustness.checkpoint.conversions.once import made_once
from robustness.checkpoint.conversions.pickles import converted_pickles
from robustness.checkpoint.loading import loading_errors, quiet, require_memory
from robustness.checkpoint.other_formats import ADAPTER, ADAPTER_PICKLE, ADAPTER_WEIGHTS
from robustness.checkpoint.reading import Located
from robustness.checkpoint.skeleton import build_skeleton
from robustness.checkpoint.tokenization import TOKENIZER_FILES, tokenizer_files
from robustness.checkpoint.verification import load_verified
from robustness.checkpoint.weights import (
    TensorInfo,
    float32_bytes,
    read_header,
    read_json,
    read_tensors,
)
from robustness.errors import CheckpointError
from robustness.store.hashing import file_sha256, files_hash

_PREFIX = "base_model.model."  # of the names in an adapter's file
_NAME = "default"  # what peft calls an adapter while it is in a model
# Settings by which peft would import a module that the file names.
_IMPORTING = ("auto_mapping", "megatron_config", "megatron_core")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter's files, verified.

    Attributes:
        folder: Where they lie.
        weights: The file with the tensors, which may be one that a pickle was converted to.
        what: The reference it was given by.
        settings: Of adapter_config.json, without those that import anything.
        tensors: By their names in the file.
    """

    folder: Path
    weights: Path
    what: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def read(cls, folder: Path, weights: Path, *, what: str) -> "Adapter":
        """Verify an adapter's files, the one with its tensors by :func:`adapter_weights`.

        Raises:
            CheckpointError: One is damaged, or ``peft`` is not installed.
        """
        if importlib.util.find_spec("peft") is None:
            raise CheckpointError(
                f"{what} is a PEFT adapter, and merging it into its base model needs peft: "
                "pip install 'pytest-robustness[peft]'."
            )
        given = read_json(folder / ADAPTER)
        if given.get("megatron_config"):
            raise CheckpointError(f"{what} is an adapter for Megatron, which is not supported.")
        settings = {
            name: value
            for name, value in given.items()
            if name not in (*_IMPORTING, "inference_mode")
        }
        tensors = {info.name: info for info in read_header(weights)}
        return cls(folder=folder, weights=weights, what=what, settings=settings, tensors=tensors)

    def base(self, named: str | None) -> str:
        """The reference of the base model: the one that the user names, or the adapter.

        A path may be relative to the adapter's folder.

        Raises:
            CheckpointError: Neither names one.
        """
        if named is not None:
            return named
        base = self.settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise CheckpointError(
                f"{self.what} is a PEFT adapter that names no base model: give its reference with "
                "--robustness-base=REF (of a command: --base)."
            )
        beside = self.folder / base
        if "\0" not in base and len(base) < 1000 and beside.is_dir():
            return str(beside)
        revision = self.settings.get("revision")
        return f"{base}@{revision}" if isinstance(revision, str) and revision else base


def adapter_weights(
    folder: Path,
    *,
    what: str,
    allow_pickle: bool,
    cache: Path,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The safetensors file with an adapter's tensors: its own, or the store's, made of a pickle.

    Raises:
        CheckpointError: There is none, or only a pickle that may not or cannot be read.
    """
    if (folder / ADAPTER_WEIGHTS).is_file():
        return folder / ADAPTER_WEIGHTS
    if not (folder / ADAPTER_PICKLE).is_file():
        raise CheckpointError(
            f"{what} is a PEFT adapter without {ADAPTER_WEIGHTS}: save it again with "
            "save_pretrained()."
        )
    if not allow_pickle:
        raise CheckpointError(
            f"{what} is a PEFT adapter whose weights are only a pickle ({ADAPTER_PICKLE}), which "
            "may run code when read: --robustness-allow-pickle (of a command: --allow-pickle) "
            "reads its tensors in a process of its own."
        )
    names = {"pickle": ADAPTER_PICKLE, "single": ADAPTER_WEIGHTS}
    converted = converted_pickles(folder, what=what, cache=cache, progress=progress, **names)
    return converted / ADAPTER_WEIGHTS


def merged_adapter(
    adapter: Adapter,
    base: Located,
    base_name: str,
    *,
    cache: Path,
    progress: Callable[[str], None] | None = None,
) -> Located:
    """The folder of the store with the base model's weights and the adapter merged.

    Raises:
        CheckpointError: They do not fit each other, or the adapter is of a kind that cannot be
            merged, or changes nothing.
    """
    tensors = read_tensors(base.folder)
    has_own = any(file.is_file() for each in TOKENIZER_FILES for file in adapter.folder.glob(each))
    own = tokenizer_files(adapter.folder if has_own else base.folder)

    def content(files: Collection[Path]) -> str:
        memory = cache / "hashes"
        return files_hash(
            files, {file: file_sha256(file, memory=memory, progress=progress) for file in files}
        )

    adapter_hash = content((adapter.folder / ADAPTER, adapter.weights))
    base_hash = content({*(info.file for info in tensors.values()), base.folder / "config.json"})
    version = importlib.metadata.version("peft")
    identity = hashlib.sha256(f"{adapter_hash} {base_hash} peft={version}".encode()).hexdigest()
    key = hashlib.sha256(f"1 {identity} {content(own)}".encode()).hexdigest()
    merged = cache / "merged" / key[:32]

    def make(temporary: Path) -> None:
        if progress is not None:
            progress(f"merging {adapter.what} into {base_name}, once")
        advice = f"see that it is complete and fits {base_name}"
        with loading_errors(f"The adapter {adapter.what}", advice=advice), quiet():
            _merge(adapter, base.folder, temporary)
        for file in own:
            (temporary / file.name).write_bytes(file.read_bytes())

    require_memory(2 * float32_bytes(tensors), what=f"Merging {adapter.what}")
    made_once(merged, make, n_bytes=float32_bytes(tensors), what=adapter.what)
    at = base.revision or f"sha256:{base_hash[:12]}"
    note = f"an adapter (sha256:{adapter_hash[:12]}) merged into {base_name} at {at}"
    return Located(folder=merged, notes=(*base.notes, note), weights_hash=identity)


def _merge(adapter: Adapter, base: Path, target: Path) -> None:
    import torch
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    model = _base_model(adapter, base)
    before = {name: value.detach() for name, value in model.named_parameters()}
    config = _peft_config(adapter)
    adapted: Any = get_peft_model(model, config, adapter_name=_NAME)
    loaded = set_peft_model_state_dict(adapted, load_file(adapter.weights), _NAME)
    _require_all_used(adapter, loaded)
    adapted.eval()
    ids = torch.arange(4)[None]  # (1, T)
    inputs = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        meant = adapted(**inputs)[0]
        if not hasattr(adapted, "merge_and_unload"):
            raise CheckpointError(
                f"{adapter.what} is an adapter of type {config.peft_type}, which is no change of "
                "weights and cannot be merged: give a model that was saved whole."
            )
        merged = adapted.merge_and_unload(safe_merge=True).eval()
        found = merged(**inputs)[0]
    if not torch.allclose(meant, found, rtol=1e-3, atol=1e-3 * float(meant.abs().max())):
        raise CheckpointError(
            f"{adapter.what} cannot be merged without changing what it computes: give a model that "
            "was saved whole."
        )
    after = dict(merged.named_parameters())
    if all(name in before and torch.equal(after[name], before[name]) for name in after):
        raise CheckpointError(
            f"{adapter.what} is an adapter that changes nothing: vet its base model."
        )
    merged.save_pretrained(target)


def _base_model(adapter: Adapter, base: Path) -> Any:
    """The base model as the adapter was trained on it, in float32.

    With the head that it was given, and with rows for the tokens that were added.
    """
    from torch import nn

    config = load_config(base, what=adapter.what)
    architecture = _architecture(adapter, config)
    cls = model_class(architecture.name)
    skeleton = build_skeleton(cls, config, what=adapter.what)
    embedding, rows = skeleton.get_input_embeddings().weight, None
    for name, parameter in skeleton.named_parameters():
        stored = adapter.tensors.get(_PREFIX + name)
        if stored is None or not parameter.dim() or stored.shape[:1] == parameter.shape[:1]:
            continue
        if parameter is embedding:
            rows = stored.shape[0]
        elif parameter.shape[0] == config.num_labels:
            config.num_labels = stored.shape[0]
    heads = {name.removeprefix(_PREFIX) for name in adapter.tensors}
    model, _ = load_verified(
        cls, config, base, architecture=architecture, what=adapter.what, elsewhere=heads
    )
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    tied, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is tied.weight and _changes(adapter, model, (tied, head)):
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    return model


def _changes(adapter: Adapter, model: Any, modules: tuple[Any, ...]) -> bool:
    """Whether an adapter has tensors for some of these modules."""
    names = [name for name, module in model.named_modules() if any(module is m for m in modules)]
    return any(
        key.removeprefix(_PREFIX).startswith(f"{name}.")
        for key in adapter.tensors
        for name in names
    )


def _architecture(adapter: Adapter, config: Any) -> Architecture:
    """The class that was adapted: by the adapter's task where that adds a head."""
    from transformers.models.auto import modeling_auto as auto

    heads: dict[Any, Mapping[str, str]] = {
        "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    }
    name = heads.get(adapter.settings.get("task_type"), {}).get(config.model_type)
    if name is None:
        return candidates(config, what=adapter.what)[0]
    return Architecture(name=name, scoring="task", declared=name)


def _peft_config(adapter: Adapter) -> Any:
    from peft import PeftConfig

    untyped: Any = PeftConfig
    config = untyped.from_peft_type(**adapter.settings, inference_mode=True)
    known = {field.name for field in dataclasses.fields(config)}
    unknown = [name for name, value in adapter.settings.items() if value and name not in known]
    if unknown:
        raise CheckpointError(
            f"{adapter.what} sets {unknown[0]!r} in {ADAPTER}, which peft "
            f"{importlib.metadata.version('peft')} does not know: update peft."
        )
    return config


def _require_all_used(adapter: Adapter, loaded: Any) -> None:
    """Refuse an adapter of which something is left over, or lacking."""
    surplus = list(loaded.unexpected_keys)
    lacking = [name for name in loaded.missing_keys if f".{_NAME}" in name]
    if surplus or lacking:
        what = (
            f"has no place in the model: {surplus[0]}" if surplus else f"is missing: {lacking[0]}"
        )
        raise CheckpointError(
            f"{adapter.what} does not fit its base model: a tensor of the adapter {what}; name the "
            "model that it was trained on with --robustness-base=REF (of a command: --base)."
        )
