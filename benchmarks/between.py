"""What rounding, pruning, merging and fine-tuning do to outlier dimensions, by ``robustness diff``.

    python benchmarks/between.py [--shared ../shared] [--work DIR] [--text-blocks 128] [--steps 300]
                                 [--part sapiens] [--part smollm2] [--smollm2-text-blocks 32]

Makes checkpoints from the antibody model ``sapiens-roberta-vl``: its dense weights rounded to 8 and
4 bits (symmetric, one scale per output row), with the smallest 30 % of every dense layer set to 0,
with 2 of every 4 neighbours set to 0, fine-tuned on heavy chains for ``--steps`` steps, and merged
with that half and half (mean of the weights; spherical). From the Q4_1 GGUF of SmolLM2 it makes
GGUF files in Q8_0 and Q4_0. Each is vetted as a user would (pytest with a policy that lets
everything pass, since only what has passed is saved as a profile; the whole of a short text) and
held against the one it was made from by ``robustness diff``. Prints a table.

Everything is kept under ``--work``: what is there is not made or measured again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from results import conditions, versions_of
from vet_checkpoints import SMOLLM2

POLICY = """
exhaustive = true
examples = 0
[checks.outliers_are_present]
min = 0
max = 9999
[checks.ablation_degrades]
min_ratio = 0.01
[checks.joint_ablation_degrades]
min_ratio = 0.01
[checks.random_ablation_is_harmless]
enabled = false
[checks.outliers_matter_more_than_chance]
enabled = false
"""
"""Lets everything pass and measures no random dimensions: what is wanted are profiles."""

HELD_OUT = 128
"""Heavy chains that are not trained on."""

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A checkpoint, and the one that it was made from, on a text.

    Attributes:
        name: what was done.
        text: name of the corpus.
        facts: what ``robustness diff --json`` says of the two.
        status: its exit code.
    """

    name: str
    text: str
    facts: Mapping[str, Any]
    status: int


# ---------------------------------------------------------------- making checkpoints


def rounded(weight: Tensor, bits: int) -> Tensor:
    """To integers of so many bits, symmetric, one scale for each output row (absmax)."""
    scale = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(scale > 0, (weight / scale).round() * scale, weight)


def pruned(weight: Tensor, share: float) -> Tensor:
    """Without the smallest weights of the matrix."""
    n = int(share * weight.numel())
    edge = weight.abs().flatten().kthvalue(n).values
    return torch.where(weight.abs() > edge, weight, 0.0)


def two_of_four(weight: Tensor) -> Tensor:
    """Without the two smaller ones of every four neighbours in a row."""
    groups = weight.reshape(-1, 4)
    keep = groups.abs().topk(2, dim=1).indices
    return torch.zeros_like(groups).scatter(1, keep, groups.gather(1, keep)).reshape(weight.shape)


def dense_changed(model: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Change the weights of all dense layers but the one that writes the vocabulary."""
    head = model.get_output_embeddings()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                module.weight.copy_(change(module.weight))


def mean(one: Tensor, other: Tensor) -> Tensor:
    """Half and half."""
    return (one + other) / 2


def spherical(one: Tensor, other: Tensor) -> Tensor:
    """Half-way on the arc between two tensors (SLERP); straight where they are parallel."""
    cosine = nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < 1e-4:
        return mean(one, other)
    return torch.sin(angle / 2) / torch.sin(angle) * (one + other)


def fine_tune(model: Any, tokenizer: Any, sequences: list[str], steps: int) -> None:
    """Masked language modelling: 15 % of the tokens, all of them masked; AdamW, falling rate."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    order = [sequences[n] for n in torch.randperm(len(sequences)).tolist()]
    rows = cycle(order)
    model.train()
    for _ in range(steps):
        texts = list(islice(rows, 16))
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        ids, special = inputs["input_ids"], torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for token in tokenizer.all_special_ids:
            special |= ids == token
        masked = (torch.rand(ids.shape) < 0.15) & ~special
        shown = ids.masked_fill(masked, tokenizer.mask_token_id)
        labels = ids.masked_fill(~masked, -100)
        loss = model(shown, attention_mask=inputs["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def variants(base: Path, work: Path, train: list[str], steps: int) -> dict[str, Path]:
    """Folders of all checkpoints made from one, by what was done; made where they are missing."""
    tokenizer = AutoTokenizer.from_pretrained(base)

    def made(name: str, change: Callable[[Any], None]) -> Path:
        folder = work / name
        if not (folder / "tokenizer_config.json").exists():
            model = AutoModelForMaskedLM.from_pretrained(base)
            change(model)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def dense(change: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
        return lambda model: dense_changed(model, change)

    def merged(how: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            other = AutoModelForMaskedLM.from_pretrained(tuned).state_dict()
            own = model.state_dict()
            model.load_state_dict({name: how(own[name], other[name]) for name in own})

        return change

    tuned = made(f"fine-tuned-{steps}", lambda model: fine_tune(model, tokenizer, train, steps))
    return {
        "8 bits": made("8-bits", dense(lambda weight: rounded(weight, 8))),
        "4 bits": made("4-bits", dense(lambda weight: rounded(weight, 4))),
        "30 % pruned": made("pruned-30", dense(lambda weight: pruned(weight, 0.3))),
        "2:4 pruned": made("pruned-2-4", dense(two_of_four)),
        f"fine-tuned, {steps} steps": tuned,
        "merged, mean": made(f"mean-{steps}", merged(mean)),
        "merged, spherical": made(f"spherical-{steps}", merged(spherical)),
    }


def requantised(source: Path, target: Path, kind: str) -> Path:
    """A GGUF file with all matrices of another one in another quantisation."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize

    if target.exists():
        return target
    wanted = GGMLQuantizationType[kind]
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    partial = target.with_suffix(".partial")
    writer = GGUFWriter(partial, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        of = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=of)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 2 and values.shape[1] % 32 == 0:  # rows are cut into blocks of 32
            writer.add_tensor(tensor.name, quantize(values, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(target)


# ---------------------------------------------------------------- vetting and comparing


def profile(model: str, corpus: Path, file: Path, work: Path) -> Path:
    """Vet a checkpoint as a whole process and keep its profile.

    Raises:
        RuntimeError: the run did not pass.
    """
    if not file.exists():
        policy = work / "policy.toml"
        policy.write_text(POLICY)
        place = work / "empty"
        place.mkdir(exist_ok=True)
        command = [
            *(sys.executable, "-m", "pytest", f"--model={model}", "-q"),
            *(f"--robustness-corpus={corpus}", f"--robustness-policy={policy}"),
            *(f"--robustness-save-baseline={file}", f"--robustness-store={work / 'store'}"),
        ]
        result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if not file.exists():
            raise RuntimeError(result.stdout + result.stderr)
    return file


def compared(name: str, text: str, then: Path, now: Path) -> Comparison:
    """What ``robustness diff`` says of two profiles."""
    command = [sys.executable, "-m", "robustness", "diff", str(then), str(now), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    facts = json.loads(result.stdout)
    if result.returncode == 2:
        raise RuntimeError(facts["reason"])
    (only,) = facts["checkpoints"]
    return Comparison(name=name, text=text, facts=only, status=result.returncode)


def sapiens(arguments: argparse.Namespace) -> Iterator[Comparison]:
    """Everything made from the antibody model, on light chains; what was trained, on heavy, too."""
    work: Path = arguments.work
    base = arguments.shared / "models" / "sapiens-roberta-vl"
    light = read_fasta(arguments.shared / "data" / "antibody-light.fa")
    heavy = read_fasta(arguments.shared / "data" / "antibody-heavy.fa")
    n = arguments.text_blocks
    texts = {
        "light chains": write_fasta(work / f"light-{n}.fa", light[:n]),
        "heavy chains": write_fasta(work / f"heavy-{n}.fa", heavy[: min(n, HELD_OUT)]),
    }
    found = variants(base, work, heavy[HELD_OUT:], arguments.steps)
    for name, folder in {"itself": base, **found}.items():
        for text, corpus in texts.items():
            if text == "heavy chains" and not name.startswith(("fine-tuned", "merged")):
                continue
            then = profile(str(base), corpus, work / f"base-{corpus.stem}.json", work)
            now = profile(str(folder), corpus, work / f"{folder.name}-{corpus.stem}.json", work)
            yield compared(name, text, then, now)


def smollm2(arguments: argparse.Namespace) -> Iterator[Comparison]:
    """SmolLM2's Q4_1 and two other quantisations made of it, on WikiText."""
    from robustness.checkpoint.reference import CheckpointRef

    work: Path = arguments.work
    whole = arguments.shared / "data" / "wikitext-2-raw" / "wiki.test.raw"
    n = arguments.smollm2_text_blocks
    corpus = work / f"wikitext-{n}.txt"
    corpus.write_text(whole.read_text()[: 530 * n])  # about 4.1 characters a token
    then = profile(SMOLLM2, corpus, work / f"smollm2-{corpus.stem}.json", work)
    for kind in ("Q8_0", "Q4_0"):
        source = Path(CheckpointRef.parse(SMOLLM2).target)
        file = requantised(source, work / f"smollm2-{kind}.gguf", kind)
        now = profile(str(file), corpus, work / f"{file.stem}-{corpus.stem}.json", work)
        yield compared(f"SmolLM2: {kind} of Q4_1", "WikiText-2", then, now)


def read_fasta(file: Path) -> list[str]:
    """The sequences."""
    records = file.read_text().split(">")[1:]
    return ["".join(record.splitlines()[1:]) for record in records]


def write_fasta(file: Path, sequences: list[str]) -> Path:
    """A file of them."""
    file.write_text("".join(f">{n}\n{each}\n" for n, each in enumerate(sequences)))
    return file


# ---------------------------------------------------------------- the table


def row(found: Comparison) -> str:
    """A line of the table."""
    verdicts = found.facts["verdicts"]
    perplexity = verdicts["perplexity"]
    then, now = found.facts["then"], found.facts["now"]
    joint = [v for name, v in verdicts.items() if name.startswith("dims")]
    ablated = f"×{number(joint[0]['measured'])}" if joint else "–"
    outside = [name for name, verdict in verdicts.items() if verdict["outcome"] != "pass"]
    cells = [
        found.name,
        found.text,
        str(now["text_blocks"]),
        f"{', '.join(map(str, then['dims'])) or 'none'} → "
        f"{', '.join(map(str, now['dims'])) or 'none'}",
        verdicts["outliers"]["reason"],
        f"{number(then['perplexity'])} → {number(now['perplexity'])}",
        number(perplexity["measured"]),
        ablated,
        f"{found.facts['outcome']} ({found.status})",
        ", ".join(outside) or "–",
    ]
    return f"| {' | '.join(cells)} |"


def number(value: Any) -> str:
    """Four digits."""
    return f"{float(value):.4g}"


HEAD = """| made by | text | blocks | outlier dimensions | what diff says of them | perplexity \
| paired ratio | all off, then → now | diff (exit code) | outside its tolerance |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Make, vet, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--work", type=Path, default=Path("between-work"))
    parser.add_argument("--text-blocks", type=int, default=128)
    parser.add_argument("--smollm2-text-blocks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--part", action="append", choices=("sapiens", "smollm2"))
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.shared = arguments.shared.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    names = ("torch", "transformers", "tokenizers", "numpy", "gguf")
    print(conditions(versions_of(names)), HEAD, sep="\n\n")
    parts = {"sapiens": sapiens, "smollm2": smollm2}
    for part in arguments.part or parts:
        for found in parts[part](arguments):
            print(row(found), flush=True)


if __name__ == "__main__":
    main()
