"""What is wrong is said in one sentence before any test runs: exit code 4, never a traceback."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer
from tests.support.plugin.plugin_support import STATES, VOCABULARY, Stubs, error_sentence

Arrange = Callable[[Path, Stubs], str]
"""Puts what is wrong into the folder; returns the option that names it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    arrange: Arrange
    says: tuple[str, ...]
    linux_only: bool = False


def option(text: str) -> Arrange:
    return lambda _folder, _stubs: text


def policy(text: str) -> Arrange:
    """A policy in the folder that pytest runs in."""

    def arrange(folder: Path, _stubs: Stubs) -> str:
        (folder / "robustness.toml").write_text(text)
        return "--robustness-seed=0"

    return arrange


def corpus(name: str, text: str, column: str = "") -> Arrange:
    def arrange(folder: Path, _stubs: Stubs) -> str:
        (folder / name).write_text(text)
        return f"--robustness-corpus={name}{column}"

    return arrange


def checkpoint(spoil: Callable[[Path], None]) -> Arrange:
    """A copy of the stub in which something is spoilt."""

    def arrange(folder: Path, stubs: Stubs) -> str:
        shutil.copytree(stubs.model, folder / "spoilt")
        spoil(folder / "spoilt")
        return "--model=spoilt"

    return arrange


def without_tokenizer(folder: Path) -> None:
    for file in [*folder.glob("*token*"), *folder.glob("vocab*")]:
        file.unlink()


def with_other_tokenizer(folder: Path) -> None:
    without_tokenizer(folder)
    tiny_tokenizer(VOCABULARY + 10).save_pretrained(folder)


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def without_head(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("cls.")]:
            del tensors[name]

    rewrite_weights(folder, change)


def encoder_only(folder: Path) -> None:
    shutil.rmtree(folder)
    save_checkpoint(folder, tiny_model("BertModel"))


def vision_model(folder: Path) -> None:
    shutil.rmtree(folder)
    model = tiny_model("ViTForImageClassification", intermediate_size=24, image_size=32)
    save_checkpoint(folder, model)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()


def policy_folder(folder: Path, _stubs: Stubs) -> str:
    (folder / "robustness.toml").mkdir()
    return "--robustness-seed=0"


def json_in_a_file(folder: Path, _stubs: Stubs) -> str:
    (folder / "taken").write_text("")
    return "--robustness-json=taken/report.json"


def json_on_a_folder(folder: Path, _stubs: Stubs) -> str:
    (folder / "taken").mkdir()
    return "--robustness-json=taken"


CASES = {
    # the checkpoint
    "missing folder": Case(
        arrange=option("--model=./absent"), says=("no such folder or file as './absent'",)
    ),
    "misspelt Hub id": Case(
        arrange=option("--model=bert-bsae-uncased"), says=("bert-bsae-uncased", "HF_HUB_OFFLINE")
    ),
    "empty reference": Case(arrange=option("--model="), says=("reference is empty",)),
    "missing tokenizer": Case(
        arrange=checkpoint(without_tokenizer), says=("spoilt has no tokenizer",)
    ),
    "tokenizer of another model": Case(
        arrange=checkpoint(with_other_tokenizer),
        says=("tokenizer does not fit spoilt", f"embedding has {VOCABULARY} rows"),
    ),
    "encoder only": Case(
        arrange=checkpoint(encoder_only), says=("BertModel", "no language-model head")
    ),
    "vision model": Case(
        arrange=checkpoint(vision_model),
        says=("ViTForImageClassification", "reads image and no text"),
    ),
    "head missing": Case(
        arrange=checkpoint(without_head), says=("spoilt lacks weights", "cls.predictions")
    ),
    "truncated": Case(arrange=checkpoint(truncated), says=("model.safetensors",)),
    "pickle only": Case(arrange=checkpoint(pickled), says=("safetensors",)),
    # the text
    "missing corpus": Case(
        arrange=option("--robustness-corpus=absent.txt"), says=("there is no file absent.txt",)
    ),
    "corpus too short": Case(
        arrange=corpus("short.txt", "w1 w2 w3\n"), says=("short.txt", "text block")
    ),
    "unknown column": Case(
        arrange=corpus("table.csv", "text,id\nw1 w2,1\n", ":txt"),
        says=("table.csv has no column txt", "text, id"),
    ),
    # the policy
    "unknown key": Case(
        arrange=policy("[checks.ablation_degrades]\nmin_ration = 2.0\n"),
        says=("robustness.toml", "checks.ablation_degrades.min_ration", "'min_ratio'"),
    ),
    "wrong type": Case(arrange=policy('seed = "1"\n'), says=("robustness.toml: seed", "integer")),
    "impossible value": Case(
        arrange=policy("[checks.ablation_degrades]\nmin_ratio = -1.0\n"),
        says=("checks.ablation_degrades.min_ratio", "greater than 0, not -1.0"),
    ),
    "broken policy": Case(arrange=policy("seed = \n"), says=("robustness.toml is not valid TOML",)),
    "missing policy": Case(
        arrange=option("--robustness-policy=absent.toml"),
        says=("policy file absent.toml does not exist",),
    ),
    "folder as a policy": Case(arrange=policy_folder, says=("robustness.toml is not a file",)),
    "override of nothing": Case(
        arrange=policy('[checkpoints."bert-*"]\nseed = 1\n'),
        says=("robustness.toml: checkpoints.'bert-*' matches none", "checkpoint-9000"),
    ),
    "unknown rule": Case(
        arrange=option("--robustness-rule=bustres"), says=("rule", "one of busters", "'bustres'")
    ),
    "unknown rule in policy": Case(
        arrange=policy('rule = "bustres"\n'), says=("robustness.toml: rule", "'bustres'")
    ),
    "unknown profile in policy": Case(
        arrange=policy('expectation = "papper"\n'),
        says=("robustness.toml: expectation", "'papper'"),
    ),
    "unknown check": Case(
        arrange=option("--robustness-enable=magnitude_is_harmless"),
        says=("magnitude_is_harmless", "did you mean 'magnitude_alone_is_harmless'"),
    ),
    "rule that can flag nothing": Case(
        arrange=policy("[rules.busters]\nk = 9.0\n"), says=("cannot flag anything at k = 9",)
    ),
    # the site
    "encoder of one stack": Case(
        arrange=option("--robustness-stack=encoder"),
        says=("one stack of layers, 'bert.encoder'", "use 'auto'"),
    ),
    "site in layers that it has not": Case(
        arrange=policy("layers = [0, 2]\n"), says=("no layer 2", "from 0 to 1")
    ),
    "context of a masked model": Case(
        arrange=option("--robustness-context=8"),
        says=("context = 8 changes nothing for checkpoint-9000, which is scored masked",),
    ),
    "BOS of a tokenizer that has none": Case(
        arrange=option("--robustness-bos=always"),
        says=("has no token that begins a sequence", "use bos auto"),
    ),
    # everything else
    "confidence out of range": Case(
        arrange=option("--robustness-confidence=1.5"),
        says=("--robustness-confidence: confidence", "less than 1, not 1.5"),
    ),
    "text blocks too small": Case(
        arrange=option("--robustness-block-size=2"), says=("block_size", "not 2")
    ),
    "no such device": Case(arrange=option("--robustness-device=gpu"), says=("device", "'gpu'")),
    "device not there": Case(
        arrange=option("--robustness-device=cuda:99"), says=("cuda:99", "available")
    ),
    "device of another system": Case(
        arrange=option("--robustness-device=mps"), says=("mps", "available")
    ),
    "report in a file": Case(arrange=json_in_a_file, says=("taken/report.json cannot be written",)),
    "report on a folder": Case(arrange=json_on_a_folder, says=("taken cannot be written",)),
    "report on a device": Case(
        arrange=option("--robustness-json=/dev/null"), says=("/dev/null cannot be written",)
    ),
    "report where nobody can write": Case(
        arrange=option("--robustness-json=/proc/report.json"),
        says=("/proc/report.json cannot be written",),
        linux_only=True,
    ),
}
ALSO_WITHOUT_WORKERS = {"missing folder", "corpus too short", "unknown key", "report in a file"}


def _parameters() -> list[object]:
    """All with workers, since more could go wrong there; some without."""
    found: list[object] = []
    for name, case in CASES.items():
        marks: list[pytest.MarkDecorator] = []
        if name == "device of another system" and sys.platform == "darwin":
            marks = [pytest.mark.skip(reason="it may be there")]
        if case.linux_only and sys.platform != "linux":
            marks = [pytest.mark.skip(reason="there is no /proc")]
        found.append(pytest.param(case, STATES["active"], id=f"{name}-active", marks=marks))
        if name in ALSO_WITHOUT_WORKERS:
            found.append(pytest.param(case, STATES["idle"], id=f"{name}-idle"))
    return found


@pytest.mark.parametrize(("case", "state"), _parameters())
def test_one_sentence_before_any_test(
    case: Case, state: tuple[str, ...], pytester: pytest.Pytester, stubs: Stubs
) -> None:
    wrong = case.arrange(pytester.path, stubs)
    model = () if wrong.startswith("--model=") else (f"--model={stubs.model}",)
    result = pytester.runpytest_subprocess(*model, *stubs.surroundings, wrong, *state)
    sentence = error_sentence(result)
    assert sentence.startswith("robustness: ")
    for words in case.says:
        assert words in sentence
    assert len(result.outlines) < 10


@pytest.mark.parametrize(
    "wrong",
    ["--robustness-expectation=papper", "--robustness-seed=one", "--robustness-layout=linse"],
)
def test_impossible_options_are_usage_problems(
    wrong: str, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess(*stubs.options, wrong)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    name, _, value = wrong.partition("=")
    result.stderr.fnmatch_lines([f"*argument {name}: invalid * '{value}'*"])


def test_the_second_of_two_checkpoints_may_be_the_wrong_one(
    pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess(*stubs.options, "--model=./absent")
    assert "'./absent'" in error_sentence(result)
