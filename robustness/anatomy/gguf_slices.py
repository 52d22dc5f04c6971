"""The tensors at the output sites of a GGUF file, dequantised one by one.

Converting a whole GGUF file takes minutes and twice the memory. The names in it, and what llama.cpp
did to the tensors, are undone by transformers' own tables; where these are missing or do not know
the file, it is converted whole after all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.site_weights import parameters_of, read_folder, to_record, traced
from robustness.anatomy.stacks import StackChoice
from robustness.checkpoint.gguf_conversion import convert_gguf
from robustness.checkpoint.gguf_file import GgufSummary, read_gguf_header, read_gguf_tensor
from robustness.errors import RobustnessError
from robustness.store.store import Record


def read_gguf(
    file: Path, stack: StackChoice, store_root: Path, progress: Callable[[str], None]
) -> Record:
    """Scales and biases at the output sites of a GGUF file, see `site_weights`.

    Raises:
        CheckpointError: It is damaged, or of an architecture transformers cannot read.
        UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output sites.
    """
    summary = read_gguf_header(file)
    progress("tracing the model's skeleton")
    try:
        return _read_slices(file, summary, stack)
    except RobustnessError:
        raise
    except Exception:  # internals of transformers and gguf: any change in them takes the long way
        folder, _ = convert_gguf(file, cache=store_root, progress=progress)
        return read_folder(folder, stack, store_root, what=str(file), progress=progress)


def _read_slices(file: Path, summary: GgufSummary, stack: StackChoice) -> Record:
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    from robustness.checkpoint.architecture import candidates
    from robustness.checkpoint.loading import quiet

    with quiet():
        config: Any = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
        architecture = candidates(config, what=str(file))[0]
        skeleton, anatomy = traced(config, architecture.name, stack, str(file))
    make: Any = TENSOR_PROCESSORS.get(summary.architecture, TensorProcessor)
    processor = make(config=config.to_dict())
    sites = [site for one in anatomy.stacks for site in one.output_sites]
    wanted = sorted({name for site in sites for name in parameters_of(site)})
    stored = _names(wanted, config, processor, skeleton.base_model_prefix)

    def tensor(name: str) -> NDArray[Any]:
        values = read_gguf_tensor(file, summary.tensors[stored[name]])
        undone = processor.process(
            weights=values, name=stored[name], tensor_key_mapping={}, parsed_parameters={}
        )
        return np.asarray(undone.weights)

    return to_record(architecture.name, anatomy.to_dict(), tensor)


def _names(wanted: Sequence[str], config: Any, processor: Any, prefix: str) -> dict[str, str]:
    """Names in the file by names in the model.

    The table is asked for these few names, as they are and without the base model's prefix: for
    every module of the model, as transformers does it, it takes seconds.

    Raises:
        KeyError: The table does not know one of them.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    def naming(names: Sequence[str], children: Sequence[Any] = ()) -> Any:
        return SimpleNamespace(
            config=config,
            state_dict=lambda: dict.fromkeys(names),
            named_children=lambda: list(children),
        )

    start = f"{prefix}."
    base = naming([name.removeprefix(start) for name in wanted if name.startswith(start)])
    found = get_gguf_hf_weights_map(naming(wanted, [(prefix, base)]), processor)
    stored = {model_name: name for name, model_name in found.items()}
    return {name: stored[name] for name in wanted}
