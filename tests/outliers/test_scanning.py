"""Checkpoints scanned by their weights alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from robustness.anatomy import recorded
from robustness.anatomy import site_weights as reading
from robustness.checkpoint.gguf.conversion import convert_gguf
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.weights import read_header
from robustness.cli.app import app
from robustness.errors import CheckpointError, RobustnessError, RuleError
from robustness.outliers.scanning import Scan, scan
from robustness.policy.policy import load_policy
from robustness.report.terminal.scan import BARS, lines_of, sketch
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints import shared
from tests.support.checkpoints.checkpoint_folders import edit_config, tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.shared import shared_model, smollm2_reference
from tests.support.plugin.plugin_support import scanned_lightly

mpnet_base = shared.mpnet_base
DIM = 5


def bert(seed: int = 0, dim: int | None = DIM, **settings: Any) -> Any:
    """A random BERT, one dimension of whose output norms stands out."""
    model = tiny_model(hidden_size=64, num_hidden_layers=4, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            norm = layer.output.LayerNorm
            norm.weight.copy_(1 + 0.01 * torch.randn(64, generator=generator))
            norm.bias.copy_(0.01 * torch.randn(64, generator=generator))
            if dim is not None:
                norm.weight[dim], norm.bias[dim] = 0.2, 2.0
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one run, without tokenizers, written long ago."""
    root = tmp_path_factory.mktemp("run")
    for step, dim in ((100, None), (200, DIM)):
        bert(step, dim).save_pretrained(root / f"checkpoint-{step}")
    age(root)
    return root


def age(root: Path) -> None:
    for file in root.rglob("*"):
        os.utime(file, (1e9, 1e9))


def scanned(folder: Path, store: Path, **options: Any) -> Scan:
    return scan(str(folder), label="x", context=Context(root=store), **options)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["scan", *arguments])


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.25, 3e-5], [float("inf"), -0.0, 1e4]]).to(dtype)
    save_file({"a": torch.zeros(7), "b": values, "c": torch.ones(2)}, tmp_path / "x.safetensors")
    info = next(info for info in read_header(tmp_path / "x.safetensors") if info.name == "b")
    found = read_values(info)
    wide = values if dtype == torch.float64 else values.to(torch.float32)
    assert found.dtype == wide.numpy().dtype
    np.testing.assert_array_equal(found, wide.numpy())


def test_codes_are_no_values(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(7, dtype=torch.int8)}, tmp_path / "x.safetensors")
    (info,) = read_header(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="quantised"):
        read_values(info)


def test_z_is_that_of_the_parameters(folder: Path, tmp_path: Path) -> None:
    """Read off the model itself, with nothing of the package."""
    found = scanned(folder / "checkpoint-200", tmp_path)
    assert found.dims == (DIM,)
    assert found.rules_of(DIM) == ("busters", "puccetti (code)", "puccetti (paper)")
    layers = bert(200).bert.encoder.layer
    for name, z in (("weight", found.scale_of(DIM)), ("bias", found.bias_of(DIM))):
        assert z is not None
        for layer, value in zip(layers, z, strict=True):
            values = getattr(layer.output.LayerNorm, name).detach().double()
            expected = (values[DIM] - values.mean()) / values.std(unbiased=True)
            assert value == pytest.approx(float(expected), rel=1e-9)


def test_neither_tokenizer_nor_model_is_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)
    assert not (folder / "checkpoint-200" / "tokenizer.json").exists()
    assert scanned(folder / "checkpoint-200", tmp_path).layers == 4


@pytest.mark.parametrize(
    ("class_name", "note"),
    [
        ("BertModel", "pooler.dense.bias, pooler.dense.weight"),
        ("BertForSequenceClassification", ""),
        ("BertForTokenClassification", ""),
        ("BertForQuestionAnswering", ""),
        ("BertForMultipleChoice", "classifier.bias"),
        ("BertLMHeadModel", ""),
    ],
)
def test_a_transformer_without_a_perplexity_is_scanned(
    class_name: str, note: str, tmp_path: Path
) -> None:
    model = tiny_model(class_name, hidden_size=32, num_hidden_layers=4)
    with torch.no_grad():
        for layer in model.base_model.encoder.layer:
            layer.output.LayerNorm.weight[DIM], layer.output.LayerNorm.bias[DIM] = 9.0, 9.0
    model.save_pretrained(tmp_path / "model")
    found = scanned(tmp_path / "model", tmp_path / "store")
    assert found.findings[0].dims == (DIM,)
    assert note in "; ".join(found.notes)
    assert len(found.notes) == bool(note)


def test_an_encoder_that_is_called_a_language_model_is_scanned_as_what_it_is(
    tmp_path: Path,
) -> None:
    headless = tmp_path / "model"
    bert().bert.save_pretrained(headless)
    edit_config(headless, architectures=["BertForMaskedLM"])
    found = scanned(headless, tmp_path / "store")
    assert (found.architecture, found.findings[0].dims) == ("BertModel", (DIM,))
    assert found.notes == (
        "the files hold no head of BertForMaskedLM: read as BertModel, without a perplexity",
    )


@pytest.mark.slow
def test_the_stock_sentence_encoder_is_scanned(mpnet_base: Path, tmp_path: Path) -> None:
    """Right values found independently: 7 and 6 of 12 layers."""
    found = scanned(mpnet_base, tmp_path)
    busters = found.findings[0].detection
    assert busters is not None
    assert (found.layers, found.hidden_size) == (12, 768)
    assert {o.dim: len(o.layers) for o in busters.outliers} == {34: 7, 461: 6}


def test_checkpoints_of_one_run_are_traced_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_skeleton, times = recorded.traced_skeleton, []

    def counted(*arguments: Any) -> Any:
        times.append(1)
        return traced_skeleton(*arguments)

    monkeypatch.setattr(recorded, "traced_skeleton", counted)
    assert scanned(folder / "checkpoint-200", tmp_path).dims == (DIM,)
    assert scanned(folder / "checkpoint-100", tmp_path).dims == ()
    assert len(times) == 1


def test_what_has_changed_is_read_again(folder: Path, tmp_path: Path) -> None:
    """Whether or not the file was old enough to be remembered."""
    copy = tmp_path / "copy"
    shutil.copytree(folder / "checkpoint-200", copy)
    for seconds in (1e9, 1.1e9, None):
        for dim in (DIM, 7):
            bert(1, dim).save_pretrained(copy)
            if seconds is not None:
                os.utime(copy / "model.safetensors", (seconds + dim, seconds + dim))
            assert scanned(copy, tmp_path / "store").dims == (dim,)


@pytest.mark.parametrize(
    ("new", "old"),
    [("Norm.weight", "Norm.gamma"), ("Norm.bias", "Norm.beta"), ("bert.encoder", "encoder")],
)
def test_tensors_are_found_by_their_older_names(
    folder: Path, tmp_path: Path, new: str, old: str
) -> None:
    expected = scanned(folder / "checkpoint-200", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder / "checkpoint-200", copy)
    tensors = load_file(copy / "model.safetensors")
    renamed = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, copy / "model.safetensors", {"format": "pt"})
    found = scanned(copy, tmp_path)
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.bias, expected.bias)


def test_a_config_of_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder / "checkpoint-200", copy)
    edit_config(copy, hidden_size=32)
    with pytest.raises(CheckpointError, match=r"does not match its config\.json"):
        scanned(copy, tmp_path)


def test_a_stack_that_there_is_not_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RobustnessError, match="'decoder' cannot be chosen"):
        scanned(folder / "checkpoint-100", tmp_path, stack="decoder")


def test_two_stacks_are_not_mixed_up(tmp_path: Path) -> None:
    model = tiny_model(
        "BartForConditionalGeneration",
        d_model=64,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=40,
    )
    model.save_pretrained(tmp_path / "bart")
    age(tmp_path / "bart")
    for _ in range(2):
        for stack, layers in (("encoder", 2), ("decoder", 3), ("auto", 3)):
            found = scanned(tmp_path / "bart", tmp_path / "store", stack=stack)
            assert found.layers == layers
            assert found.stack == {"auto": "decoder"}.get(stack, stack)


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[2].output.LayerNorm.bias[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(RuleError, match="bias of dimension 3 in layer 2"):
        scanned(tmp_path / "broken", tmp_path / "store")


def test_a_gguf_file_is_read_by_slices(tmp_path: Path) -> None:
    """The same numbers as converted whole."""
    llama = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), max_position_embeddings=128, hidden_size=32
    )
    file = write_llama_gguf(tmp_path / "model.gguf", llama)
    age(tmp_path)
    found = reading.site_weights(str(file), context=Context(root=tmp_path / "store")).parameters
    assert not (tmp_path / "store" / "gguf").exists()
    whole, _ = convert_gguf(file, cache=tmp_path / "store")
    expected = reading.site_weights(str(whole), context=Context(root=tmp_path / "store")).parameters
    np.testing.assert_array_equal(found.scale, expected.scale)
    assert found.bias is expected.bias is None


# ---------------------------------------------------------------- real checkpoints


@pytest.mark.parametrize(
    ("name", "dims"),
    [("rxnfp-bert-mlm", ()), ("rxnmapper-albert-mlm", (60,)), ("sapiens-roberta-vl", (92, 112))],
)
def test_real_checkpoints_have_their_dimensions(
    name: str, dims: tuple[int, ...], tmp_path: Path
) -> None:
    """And the same ones, by the same numbers, as before a run."""
    folder = shared_model(name)
    found = scanned(folder, tmp_path)
    assert found.findings[0].dims == dims
    checkpoint = resolve(str(folder), cache=tmp_path)
    settings = load_policy(None, options={"rule": ["busters", "puccetti"]}).settings(str(folder))
    vetting = Vetting(checkpoint=checkpoint, settings=settings, context=Context(root=tmp_path))
    assert [f.detection for f in found.findings[:2]] == list(vetting.model_profile.detections)


def test_the_real_gguf_file_has_its_dimensions(tmp_path: Path) -> None:
    found = scan(smollm2_reference(), label="x", context=Context(root=tmp_path))
    assert found.findings[0].dims == (100, 247, 507)
    assert not (tmp_path / "gguf").exists()


# ---------------------------------------------------------------- what is shown


def test_only_the_first_scan_of_a_configuration_imports_torch(folder: Path, tmp_path: Path) -> None:
    """Neither the second one of a checkpoint does, nor the first one of its neighbour."""
    store = f"--store={tmp_path}"
    assert run(str(folder / "checkpoint-200"), store).exit_code == 0
    assert f"{DIM:>9}  scale" in scanned_lightly(str(folder / "checkpoint-200"), store)
    assert "busters" in scanned_lightly(str(folder / "checkpoint-100"), store)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_it_degrades_without_unicode_and_fits(folder: Path, tmp_path: Path, encoding: str) -> None:
    hostile = tmp_path / "checkpoint-Δ\N{RIGHT-TO-LEFT OVERRIDE}::x"
    shutil.copytree(folder / "checkpoint-200", hostile)
    done = subprocess.run(
        [sys.executable, "-m", "robustness", "scan", hostile, f"--store={tmp_path / 'store'}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert done.returncode in (0, 2)
    text = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    plain = run(str(folder / "checkpoint-200"), str(folder / "checkpoint-100"))
    assert max(map(len, plain.stdout.splitlines())) <= 100


def test_the_sketch_follows_the_encoding(folder: Path, tmp_path: Path) -> None:
    found = scanned(folder / "checkpoint-200", tmp_path)
    bars, digits = lines_of([found], unicode=True), lines_of([found], unicode=False)
    assert any(set(line) & set(BARS[3:]) for line in bars)
    assert all(line.isascii() for line in digits)
    assert len(bars) == len(digits)


def test_a_sketch_has_one_sign_a_layer_or_the_furthest_of_several() -> None:
    z = [0.5, -1.0, 2.5, 3.0, -5.5, 8.0, 12.0, -40.0, float("nan")]
    assert sketch(z) == "▁▂▃▄▅▆▇█ "
    assert sketch(z, unicode=False) == "01235899 "
    assert sketch([0.0] * 99 + [-9.0], width=10, unicode=False) == "0000000009"
    assert len(sketch([0.0] * 126)) <= 48


def test_several_stand_side_by_side_with_each_others_dimensions(
    folder: Path, tmp_path: Path
) -> None:
    models = [str(folder / "checkpoint-100"), str(folder / "checkpoint-200")]
    result = run(*models, f"--store={tmp_path}", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert (facts["schema"], facts["errors"]) == (1, [])
    before, after = facts["checkpoints"]
    assert [c["label"] for c in (before, after)] == ["checkpoint-100", "checkpoint-200"]
    assert before["rules"][0]["dims"] == []
    assert after["rules"][0]["dims"] == [DIM]
    for one in (before, after):
        (entry,) = one["dimensions"]
        assert entry["dim"] == DIM
        assert len(entry["z_scale"]) == len(entry["z_bias"]) == 4
    shown = run(*models, f"--store={tmp_path}").stdout
    assert any(line.split() == ["side", "by", "side", *labels(models)] for line in rows(shown))
    assert any(line.split() == ["busters", "none", str(DIM)] for line in rows(shown))
    assert any(line.startswith(f"scale of {DIM} ") for line in rows(shown))


def labels(models: list[str]) -> list[str]:
    return [Path(model).name for model in models]


def rows(text: str) -> list[str]:
    return text.splitlines()


def test_what_cannot_be_scanned_is_one_sentence_and_the_rest_is_scanned(
    folder: Path, tmp_path: Path
) -> None:
    good = str(folder / "checkpoint-200")
    (tmp_path / "empty").mkdir()
    for bad in (str(tmp_path / "missing"), str(tmp_path / "empty"), "", "no/such-model"):
        result = run(bad, f"--store={tmp_path}")
        assert result.exit_code == 2
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("robustness: ")
    result = run(good, str(tmp_path / "empty"), f"--store={tmp_path}", "--json")
    assert result.exit_code == 2
    facts = json.loads(result.stdout)
    assert [one["reference"] for one in facts["checkpoints"]] == [good]
    assert [error["reference"] for error in facts["errors"]] == [str(tmp_path / "empty")]


def test_the_rules_settings_are_those_of_the_policy(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "robustness.toml"
    policy.write_text("[rules.busters]\nk = 7.87\n")
    good = str(folder / "checkpoint-200")
    strict = run(good, f"--store={tmp_path}", f"--policy={policy}", "--json")
    assert json.loads(strict.stdout)["checkpoints"][0]["rules"][0]["dims"] == []
    policy.write_text("[rules.busters]\nkk = 7\n")
    refused = run(good, f"--store={tmp_path}", f"--policy={policy}")
    assert refused.exit_code == 2
    assert "unknown key 'rules.busters.kk'" in refused.stderr
