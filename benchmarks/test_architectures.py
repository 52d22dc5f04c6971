"""The survey of architectures: what it says of a class that is read, refused, or none at all."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from architectures import NO_HEAD, NOT_BUILT, Outcome, examine, lines_of
from architectures_tiny import text_classes


def test_a_class_is_scanned_and_vetted_or_says_why_not(tmp_path: Path) -> None:
    names = ("GPT2LMHeadModel", "BertModel", "CpmAntForCausalLM", "NoSuchModel")
    read, headless, mixing, missing = (examine(name, tmp_path / name) for name in names)
    assert read == Outcome(name="GPT2LMHeadModel", scanned="ok", vetted="ok")
    assert (headless.scanned, headless.vetted) == ("ok", NO_HEAD)
    assert mixing.scanned == "ok"
    assert mixing.vetted.startswith("CLASS, as configured, lets later tokens")
    assert (missing.scanned, missing.vetted.partition(":")[0]) == (NOT_BUILT, NOT_BUILT)
    lines = list(lines_of([read, headless, mixing, missing]))
    assert "| ok | refused | 1 |" in lines
    assert f"| {NOT_BUILT} | NoSuchModel |" in lines
    assert any("lets later tokens" in line and "CpmAntForCausalLM" in line for line in lines)


def test_only_classes_that_read_text_are_surveyed() -> None:
    found = text_classes(headless=True)
    assert {"BertForMaskedLM", "T5ForConditionalGeneration", "ElectraForPreTraining"} < found.keys()
    assert not {"ViTModel", "CLIPModel", "Wav2Vec2Model"} & found.keys()
