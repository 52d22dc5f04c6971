"""The pytest plugin: hooks and options only.

Without ``--model`` it adds its options and nothing else: neither torch nor transformers is
imported, and of this package only the names of the formats and the fixtures' signatures.
"""

import re
import sys
from argparse import ArgumentError
from collections.abc import Generator
from contextlib import suppress
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

_REFERENCE: dict[str, Any] = {
    "dest": "robustness_reference",
    "metavar": "X",
    "help": "hold every checkpoint against this one, the model that it came from: named as for "
    "--model, or a file that --robustness-save-baseline has written",
}

_SHORT = {"--model": _MODEL, "--reference": _REFERENCE}
"""Options that have a short name, too, where nobody else has taken it."""

_REPORTS = "\n".join(
    f"{reporter.name} FILE\n    write {reporter.described}"
    for reporter in REPORTERS.values()
    if reporter.in_a_run
)
_OPTIONS = f"""
allow-pickle
    read pytorch_model.bin where a checkpoint has no safetensors: tensors only, in a process of its
    own, converted once
base X
    the model that an adapter (PEFT) belongs to, named as for --model, if not where the adapter says
tokenizer X
    take the tokenizer of this checkpoint or folder instead of the vetted one's own
corpus TEXT
    text to measure on: 'builtin'; a .txt, .text, .raw, .md or FASTA file; a .csv, .tsv, .jsonl,
    .json or .parquet file with ':column'; each also as .gz, .bz2, .xz or .zst; a folder of
    save_to_disk with ':split:column'; or a datasets id as 'id:config:split:column'
    (default: builtin)
layout auto|packed|lines
    pack running text into fixed text blocks, or keep one example per line or row whole
    (default: auto, by kind of corpus)
block-size N
    tokens in a text block, special tokens included (default: 128)
masking all|bert|pll|pll-word-l2r
    masked language models: mask 15%% of the tokens ('bert': 80/10/10), or each token alone
    (pseudo-log-likelihood; 'pll-word-l2r': with the rest of its word) (default: all)
bos auto|always|never
    whether the token that begins a sequence stands first in every text block, on which outliers
    can depend (default: auto, as the tokenizer has it)
context N
    causal models: tokens of the preceding text that a text block begins with, read and not
    scored, as in strided perplexity (default: 0)
generator X
    discriminators (ELECTRA): a masked language model whose predictions replace tokens, named as
    for --model; 'unigram': tokens of the corpus itself (default: unigram)
task DATA
    labelled examples of the checkpoint's downstream task: 'glue/NAME'; a .csv, .tsv, .jsonl,
    .json or .parquet file, compressed or not, with ':text:label' or ':text,text:label'; a folder
    of save_to_disk with ':split:text:label'; or a datasets id as 'id:config:split:text,text:label'
expectation paper|hardened|regression
    paper: ablating outlier dimensions must hurt; hardened: it must not; regression: only sanity
    and the checks against a reference decide (default: regression with a reference, else paper)
change conversion|training
    what was done to a checkpoint that has a reference: a conversion (quantised, pruned, exported)
    keeps the model; training makes another one on purpose, of which predictions and distributions
    are only recorded (default: conversion)
rule RULE...
    how outlier dimensions are found: busters (default), puccetti, llm-int8, massive, variance,
    kurtosis or super-weight; repeatable: the first decides what is ablated, the report compares
    them all
stack auto|encoder|decoder
    which stack of layers is vetted (default: auto, the only one, or of an encoder and a decoder
    the decoder)
site output|residual|attention-norm|embedding-norm
    where dimensions are ablated: what a layer writes, its whole output, or a norm (default:
    output)
mode zero|mean
    ablated features become 0, or the intact model's mean (default: zero)
enable CHECK...
    run an opt-in check too, e.g. magnitude_alone_is_harmless; repeatable
confidence P
    probability that all verdicts of the run are right (default: 0.99)
exhaustive
    measure the whole corpus instead of stopping when a verdict is sure
examples N
    pieces of the corpus for the report, with what the model says about them intact and ablated;
    0: none (default: 3)
seed N
    of the order of text blocks, the masks and the random draws (default: 0)
device DEVICE
    cpu, cuda[:n] or mps (default: cpu)
dtype float32|bfloat16|auto
    precision of the model's matrix products; auto: bfloat16 where the hardware computes in it.
    A check too near its threshold for bfloat16 runs in float32 (default: float32)
policy FILE
    TOML file with thresholds and settings (default: robustness.toml, or [tool.robustness] of
    pyproject.toml, in the root directory)
{_REPORTS}
github auto|always|never
    write annotations and the job summary of GitHub Actions (default: auto, in its jobs)
baseline FILE
    as --robustness-reference, with a file that --robustness-save-baseline has written
save-baseline FILE
    write the profile of a run, as a reference for later ones; best with --robustness-exhaustive
plan
    show which checks would run, and about how long, without loading a model
shard i/n
    vet part i of n only, with the JSON report that 'robustness merge' takes
store DIR
    folder for measured numbers and converted weights (default: the user's cache)
fresh
    measure everything anew, whatever the store holds
store-limit GB
    size of the store beyond which a run removes what has not been used for the longest time, at
    least an hour (default: 20)
"""
"""As ``--help`` shows them, without ``--robustness-``; ``...``: may be given repeatedly."""

_KINDS: dict[str, Any] = {"N": int, "P": float, "GB": float}
"""A file or folder remains text: other plugins hand options on to processes of their own."""

_DEFAULTS = {"github": "auto", "store-limit": 20.0}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options, all under their long names."""
    group = parser.getgroup("robustness", "vetting of language-model checkpoints")
    group.addoption("--robustness-model", **_MODEL)
    group.addoption("--robustness-reference", **_REFERENCE)
    for name, kind, text in re.findall(r"^(\S+) ?(.*)\n((?: +.*\n)+)", _OPTIONS, re.MULTILINE):
        takes = kind.removesuffix("...")
        given: dict[str, Any] = {"help": " ".join(text.split()), "default": _DEFAULTS.get(name)}
        if "|" in kind:
            given["choices"] = kind.split("|")
        elif not kind:
            given["action"] = "store_true"
        else:
            given |= {"metavar": takes, "type": _KINDS.get(takes, str)}
            given["action"] = "store" if kind == takes else "append"
        group.addoption(f"--robustness-{name}", **given)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Add short names where they are free, after every conftest had its chance to take them."""
    if any(arg.startswith((*_SHORT, "--robustness-model")) for arg in args):
        _refuse_namesake()
        from robustness.pytest_support.session import refuse_code_in_model_folders

        refuse_code_in_model_folders(early_config, args)
    yield
    for name, given in _SHORT.items():
        if early_config.getoption(name, default=parser) is not parser:
            continue  # taken: asked first, since pytest 9.0 takes note of ours before it refuses it
        with suppress(ValueError, ArgumentError):  # taken; the long name remains
            parser.getgroup("robustness").addoption(name, **given)


def pytest_configure(config: pytest.Config) -> None:
    """Load the rest of the plugin if there is a checkpoint to vet."""
    if config.getoption("robustness_models"):
        _refuse_namesake()
        from robustness.pytest_support.session import register

        register(config)


def _refuse_namesake() -> None:
    """Before anything is imported that needs this package's own ``__init__``."""
    from robustness.runtime.libraries import name_clash

    if clash := name_clash():
        raise pytest.UsageError(f"robustness: {clash}")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist's, which never ends where it watches files
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--robustness-plan``, show the plan instead of running it; refuse to watch files."""
    if config.getoption("robustness_models") and config.getoption("looponfail", default=False):
        raise pytest.UsageError(
            "robustness: -f (--looponfail) waits for changes of test files, which a checkpoint is "
            "not: leave it away"
        )
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
