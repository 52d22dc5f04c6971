"""What llama.cpp makes of the small random models, kept as data: an independent reader of settings.

``python -m tests.support.llama_cpp_models`` writes the data.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.support.checkpoints.gguf_files import TOKENS, write_gguf
from tests.support.checkpoints.gguf_models import MODELS, Written
from tests.support.llama_cpp import nll_nats

DATA = Path(__file__).parents[1] / "checkpoint" / "data" / "llama_cpp_models.json"
COMMAND = "python -m tests.support.llama_cpp_models"
IDS = torch.randint(0, len(TOKENS), (2, 100), generator=torch.Generator().manual_seed(1))


def _without_window(name: str) -> Written:
    written = MODELS[name]
    config = {**written.config, "sliding_window": 250}
    return replace(written, config=config, keys={**written.keys, "attention.sliding_window": 250})


def _truncated(name: str) -> Written:
    written = MODELS[name]
    rope = {**written.config["rope_parameters"], "truncate": True}
    return replace(written, config={**written.config, "rope_parameters": rope})


# Where llama.cpp does not do what the original does, a model is compared in which that is the same.
COMPARED: Mapping[str, Written] = {
    **MODELS,
    # It reads no rope.scaling.yarn_… of a Llama.
    "llama, yarn with all it has": MODELS["llama, yarn"],
    # It has no windows for these, for Phi-3 on purpose ("SWA is currently disabled").
    **{name: _without_window(name) for name in ("mistral", "phi3", "starcoder2")},
    # It rounds the ends of YaRN's ramp for every model; OpenAI's own code does not.
    "gpt-oss": _truncated("gpt-oss"),
    # It knows norms of queries and keys in models of at least 64 layers only.
    "command-r": replace(
        MODELS["command-r"], config={**MODELS["command-r"].config, "use_qk_norm": False}
    ),
}


@cache
def kept() -> dict[str, Any]:
    """The data."""
    data: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return data


def of_models() -> dict[str, list[float]]:
    """Negative log-likelihood of each row of IDS, by model."""
    found = {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "m.gguf"
        for name, model in COMPARED.items():
            write_gguf(file, model.architecture, model.model(), model.keys, model.tensors)
            found[name] = nll_nats(file, IDS.tolist())
    return found


def main() -> None:
    import llama_cpp

    data = {"made_by": COMMAND, "llama_cpp_python": llama_cpp.__version__, "nll_nats": of_models()}
    DATA.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
