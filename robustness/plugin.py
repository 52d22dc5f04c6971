"""The pytest plugin: hooks and options only.

Without ``--model`` it adds its options and nothing else: neither torch nor transformers is
imported, and of this package only the names of the formats and the fixtures' signatures.
"""

import sys
from argparse import ArgumentError
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from robustness.report.reporters import REPORTERS

pytest_plugins = ["robustness.pytest_support.fixtures"]

_MODEL: dict[str, Any] = {
    "dest": "robustness_models",
    "action": "append",
    "metavar": "X",
    "help": "checkpoint to vet: a local folder, a Hub id (name or name@revision), a .gguf file, or "
    "pkg:package/path; repeatable. Write --model=X, with the equals sign",
}

_FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
_NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options, all under their long names."""
    group = parser.getgroup("robustness", "vetting of language-model checkpoints")
    group.addoption("--robustness-model", **_MODEL)
    group.addoption(
        "--robustness-corpus",
        metavar="TEXT",
        help="text to measure on: 'builtin'; a .txt or FASTA file; a .csv, .jsonl or .parquet "
        "file with ':column'; or a datasets id as 'id:config:split:column' (default: builtin)",
    )
    group.addoption(
        "--robustness-layout",
        choices=("auto", "packed", "lines"),
        help="pack running text into fixed text blocks, or keep one example per line or row "
        "whole (default: auto, by kind of corpus)",
    )
    group.addoption(
        "--robustness-block-size",
        **_NUMBER,
        help="tokens in a text block, special tokens included (default: 128)",
    )
    group.addoption(
        "--robustness-masking",
        choices=("all", "bert", "pll", "pll-word-l2r"),
        help="masked language models: mask 15%% of the tokens ('bert': 80/10/10), or each token "
        "alone (pseudo-log-likelihood; 'pll-word-l2r': with the rest of its word) (default: all)",
    )
    group.addoption(
        "--robustness-bos",
        choices=("auto", "always", "never"),
        help="whether the token that begins a sequence stands first in every text block, on which "
        "outliers can depend (default: auto, as the tokenizer has it)",
    )
    group.addoption(
        "--robustness-context",
        **_NUMBER,
        help="causal models: tokens of the preceding text that a text block begins with, read and "
        "not scored, as in strided perplexity (default: 0)",
    )
    group.addoption(
        "--robustness-generator",
        metavar="X",
        help="discriminators (ELECTRA): a masked language model whose predictions replace tokens, "
        "named as for --model; 'unigram': tokens of the corpus itself (default: unigram)",
    )
    group.addoption(
        "--robustness-task",
        metavar="DATA",
        help="labelled examples of the checkpoint's downstream task: 'glue/NAME'; a .csv, .tsv, "
        ".jsonl or .parquet file with ':text:label' or ':text,text:label'; or a datasets id as "
        "'id:config:split:text,text:label'",
    )
    group.addoption(
        "--robustness-expectation",
        choices=("paper", "hardened"),
        help="paper: ablating outlier dimensions must hurt; hardened: it must not (default: paper)",
    )
    group.addoption(
        "--robustness-rule",
        action="append",
        metavar="RULE",
        help="how outlier dimensions are found: busters (default), puccetti, llm-int8, massive, "
        "variance, kurtosis or super-weight; repeatable: the first decides what is ablated, the "
        "report compares them all",
    )
    group.addoption(
        "--robustness-stack",
        choices=("auto", "encoder", "decoder"),
        help="which stack of layers is vetted (default: auto, the only one, or of an encoder and a "
        "decoder the decoder)",
    )
    group.addoption(
        "--robustness-site",
        choices=("output", "residual", "attention-norm", "embedding-norm"),
        help="where dimensions are ablated: what a layer writes, its whole output, or a norm "
        "(default: output)",
    )
    group.addoption(
        "--robustness-mode",
        choices=("zero", "mean"),
        help="ablated features become 0, or the intact model's mean (default: zero)",
    )
    group.addoption(
        "--robustness-enable",
        action="append",
        metavar="CHECK",
        help="run an opt-in check too, e.g. magnitude_alone_is_harmless; repeatable",
    )
    group.addoption(
        "--robustness-confidence",
        type=float,
        metavar="P",
        help="probability that all verdicts of the run are right (default: 0.99)",
    )
    group.addoption(
        "--robustness-exhaustive",
        action="store_true",
        default=None,
        help="measure the whole corpus instead of stopping when a verdict is sure",
    )
    group.addoption(
        "--robustness-examples",
        **_NUMBER,
        help="pieces of the corpus for the report, with what the model says about them intact and "
        "ablated; 0: none (default: 3)",
    )
    group.addoption(
        "--robustness-seed",
        **_NUMBER,
        help="of the order of text blocks, the masks and the random draws (default: 0)",
    )
    group.addoption(
        "--robustness-device", metavar="DEVICE", help="cpu, cuda[:n] or mps (default: cpu)"
    )
    group.addoption(
        "--robustness-dtype",
        choices=("float32", "bfloat16", "auto"),
        help="precision of the model's matrix products; auto: bfloat16 where the hardware computes "
        "in it. A check too near its threshold for bfloat16 runs in float32 (default: float32)",
    )
    group.addoption(
        "--robustness-policy",
        **_FILE,
        help="TOML file with thresholds and settings (default: robustness.toml, or "
        "[tool.robustness] of pyproject.toml, in the root directory)",
    )
    for reporter in REPORTERS.values():
        if reporter.in_a_run:
            group.addoption(
                f"--robustness-{reporter.name}", **_FILE, help=f"write {reporter.described}"
            )
    group.addoption(
        "--robustness-github",
        choices=("auto", "always", "never"),
        default="auto",
        help="write annotations and the job summary of GitHub Actions (default: auto, in its jobs)",
    )
    group.addoption(
        "--robustness-baseline",
        **_FILE,
        help="compare every checkpoint with its profile in this file, and fail where it differs",
    )
    group.addoption(
        "--robustness-save-baseline",
        **_FILE,
        help="write the profile of a run in which everything passed; best with "
        "--robustness-exhaustive",
    )
    group.addoption(
        "--robustness-plan",
        action="store_true",
        help="show which checks would run, and about how long, without loading a model",
    )
    group.addoption(
        "--robustness-shard",
        metavar="i/n",
        help="vet part i of n only, with the JSON report that 'robustness merge' takes",
    )
    group.addoption(
        "--robustness-store",
        type=Path,
        metavar="DIR",
        help="folder for measured numbers and converted weights (default: the user's cache)",
    )
    group.addoption(
        "--robustness-fresh",
        action="store_true",
        help="measure everything anew, whatever the store holds",
    )
    group.addoption(
        "--robustness-store-limit",
        type=float,
        default=20.0,
        metavar="GB",
        help="size of the store beyond which a run removes what has not been used for the longest "
        "time, at least an hour (default: 20)",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Add ``--model`` where the name is free, after every conftest had its chance to take it."""
    if any(arg.startswith(("--model", "--robustness-model")) for arg in args):
        from robustness.pytest_support.session import refuse_code_in_model_folders

        refuse_code_in_model_folders(early_config, args)
    yield
    if early_config.getoption("--model", default=parser) is not parser:
        return  # taken: asked first, since pytest 9.0 takes note of ours before it refuses it
    try:
        parser.getgroup("robustness").addoption("--model", **_MODEL)
    except (ValueError, ArgumentError):  # taken; --robustness-model remains
        return


def pytest_configure(config: pytest.Config) -> None:
    """Load the rest of the plugin if there is a checkpoint to vet."""
    if config.getoption("robustness_models"):
        from robustness.pytest_support.session import register

        register(config)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--robustness-plan``, show the plan instead of running it."""
    if not config.getoption("robustness_plan"):
        return None
    from robustness.pytest_support.planning import show_plan

    return show_plan(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``checkpoint`` by ``--model``, and the suite by what was found."""
    if "checkpoint" in metafunc.fixturenames:
        from robustness.pytest_support.collection import parametrize

        parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run the packaged suite on nothing."""
    if "robustness.suite" in sys.modules and not config.getoption("robustness_models"):
        from robustness.pytest_support.collection import refuse_suite_without_model

        refuse_suite_without_model(items)
