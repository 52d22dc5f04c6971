"""The tensors at the output sites of a GGUF file, dequantised one by one.

Converting a whole GGUF file takes minutes and twice the memory. The names in it, and what llama.cpp
did to the tensors, are undone by transformers' own tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.recorded import site_parameter_names, traced_skeleton
from robustness.anatomy.stacks import Anatomy, StackChoice
from robustness.checkpoint.gguf.header import GgufSummary, read_gguf_tensor


@dataclass(frozen=True, kw_only=True)
class GgufSites:
    """The output sites of a GGUF file's model.

    Attributes:
        file: The file.
        summary: What its header says.
        architecture: Name of the transformers class.
        anatomy: Where the sites are.
        stored: Names in the file by names in the model, of the sites' parameters.
        processor: Undoes what llama.cpp did to a tensor.
    """

    file: Path
    summary: GgufSummary
    architecture: str
    anatomy: Anatomy
    stored: Mapping[str, str]
    processor: Any

    @classmethod
    def find(cls, file: Path, summary: GgufSummary, stack: StackChoice) -> "GgufSites":
        """Trace the model that a file's header describes.

        Raises:
            CheckpointError: It is of an architecture that transformers cannot read.
            UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output sites.
            Exception: Whatever internals of transformers and gguf raise where they do not know it.
        """
        from transformers import AutoConfig
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        from robustness.checkpoint.architecture import candidates
        from robustness.checkpoint.loading import quiet

        with quiet():
            config: Any = AutoConfig.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
            )
            architecture = candidates(config, what=str(file))[0].name
            skeleton, anatomy = traced_skeleton(config, architecture, stack, str(file))
        make: Any = TENSOR_PROCESSORS.get(summary.architecture, TensorProcessor)
        processor = make(config=config.to_dict())
        wanted = site_parameter_names(anatomy)
        return cls(
            file=file,
            summary=summary,
            architecture=architecture,
            anatomy=anatomy,
            stored=_names(wanted, config, processor, skeleton.base_model_prefix),
            processor=processor,
        )

    def tensor(self, name: str) -> NDArray[Any]:
        """The values of a site's parameter, by its name in the model."""
        stored = self.stored[name]
        values = read_gguf_tensor(self.file, self.summary.tensors[stored])
        undone = self.processor.process(
            weights=values, name=stored, tensor_key_mapping={}, parsed_parameters={}
        )
        return np.asarray(undone.weights)


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
    names = get_gguf_hf_weights_map(naming(wanted, [(prefix, base)]), processor)
    stored = {model_name: name for name, model_name in names.items()}
    return {name: stored[name] for name in wanted}
