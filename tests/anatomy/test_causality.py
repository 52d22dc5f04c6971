"""Whether later tokens change what a model predicts, on models of which that is known."""

import pytest

from robustness.anatomy.causality import require_next_tokens
from robustness.errors import UnsupportedArchitecture
from tests.support.checkpoints.tiny_models import VOCABULARY, tiny_model


@pytest.mark.parametrize(
    "architecture", ["gpt2", "llama", "mamba", "bloom", "falcon-alibi", "mixtral", "bert-decoder"]
)
def test_causal_models_pass(architecture: str) -> None:
    require_next_tokens(tiny_model(architecture), VOCABULARY)


@pytest.mark.parametrize(
    "architecture",
    [
        "bert",  # reads in both directions
        "xlnet",  # so does this, where nobody says who may look at whom
        "doge-experts",  # its router mixes the tokens of a batch
    ],
)
def test_models_that_look_ahead_are_refused(architecture: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match="lets later tokens or other texts") as caught:
        require_next_tokens(tiny_model(architecture), VOCABULARY)
    assert str(caught.value).count(". ") == 0
