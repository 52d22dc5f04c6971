"""What a folder holds in place of safetensors weights, and what to do about it."""

import re
from itertools import chain, islice
from pathlib import Path

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.msgpack", "*.h5")
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state).*")
_IN_PIECES = ("zero_to_fp32.py", "global_step*", "*.distcp", "*_fsdp_*", "mp_rank_*", "zero_pp_*")
_EXPORTS = {
    "ONNX": ("*.onnx", "onnx"),
    "OpenVINO": ("openvino_model.*",),
    "TensorFlow": ("saved_model.pb", "*.tflite"),
    "Core ML": ("*.mlpackage", "*.mlmodel"),
    "TensorRT": ("*.engine", "*.plan"),
}
_OF_PICKLES = (
    "has no safetensors weights, only formats that may run code when read: load it where you trust "
    "it and save it again with save_pretrained().",
    "has no safetensors weights, only a pickle, which may run code when read: "
    "--robustness-allow-pickle (of a command: --allow-pickle) reads its tensors in a process of "
    "its own.",
)  # and what to say of those that an option allows
_MOST_SUBFOLDERS = 1000


def in_place_of_weights(folder: Path, *, single: str, index: str) -> str:
    """What to say of a folder without safetensors weights: the end of a sentence about it.

    Args:
        folder: It has neither of the two files.
        single: The name that the weights have in one file.
        index: The name of the file that ties shards together.
    """

    def names(*patterns: str) -> list[str]:
        return sorted({path.name for pattern in patterns for path in folder.glob(pattern)})

    if ggufs := names("*.gguf", "*.GGUF"):
        return f"has no {single}, but GGUF: give the file itself ({', '.join(ggufs)})."
    if shards := names("model-*-of-*.safetensors"):
        return (
            f"holds {shards[0]}, but not the index {index}, which says what the shards hold: copy "
            "or download it, too, or save the checkpoint again."
        )
    if variants := names("*.safetensors", "*.safetensors.index*.json"):
        return (
            f"holds {variants[0]}, but no {single}: rename that file if it holds all weights of "
            "the model, or save the checkpoint again with save_pretrained()."
        )
    pickles = [name for name in names(*_PICKLES) if not _OF_TRAINING.fullmatch(name)]
    if (pieces := names(*_IN_PIECES)) and not names(PICKLE):
        return (
            f"is a training checkpoint of DeepSpeed or FSDP ({pieces[0]}), whose weights lie in "
            "pieces: consolidate it with zero_to_fp32.py or 'accelerate merge-weights', and save "
            "it with save_pretrained()."
        )
    if pickles:
        return _OF_PICKLES[bool(names(PICKLE, PICKLE_INDEX))]
    if inside := _checkpoints_in(folder, single, index):
        shown = ", ".join(inside[:2]) + (" …" if len(inside) > 2 else "")
        trace = "" if len(inside) == 1 else ", or follow all of them with 'robustness trace'"
        return f"holds no weights itself, its subfolders do ({shown}): give one of them{trace}."
    for format_name, patterns in _EXPORTS.items():
        if names(*patterns):
            return (
                f"holds no weights but an export to {format_name}: give the checkpoint that it was "
                "made from."
            )
    return f"has no safetensors weights: expected {single}, or {index} with shards."


def _checkpoints_in(folder: Path, single: str, index: str) -> list[str]:
    """The folders in it, or in one of them, that hold weights, by the numbers in their names."""
    files = chain.from_iterable(
        folder.glob(f"{below}/{name}") for below in ("*", "*/*") for name in (single, index)
    )
    held = {str(file.parent.relative_to(folder)) for file in islice(files, _MOST_SUBFOLDERS)}
    return sorted(held, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
