"""A small checkpoint in a folder, planned and vetted as a run does, and a plain loop beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.block import ScoredBlock
from robustness.store.context import Context
from robustness.vetting import Vetting


def vetted(folder: Path, root: Path, **options: Any) -> Vetting:
    """The checkpoint in a folder on a text of numbered words, with the store in a root folder."""
    root.mkdir(exist_ok=True)
    text = root / "text.txt"
    text.write_text(" ".join(f"w{n}" for n in np.random.default_rng(0).integers(0, 50, 1200)))
    known = {"corpus": str(text), "block_size": 24, "rules": {"busters": {"k": 1.0}}}
    context = Context(root=root / "store")
    policy = load_policy(None, options={**known, **options})
    (planned,) = make_plan([str(folder)], policy, context).checkpoints
    return Vetting(
        checkpoint=planned.load(),
        settings=planned.settings,
        model_profile=planned.model_profile,
        context=context,
    )


def plain_nlls(model: Any, rows: Sequence[ScoredBlock]) -> list[float]:
    """Row by row, from logits of all positions: what each row's target tokens cost, in nats."""
    nlls = []
    for row in rows:
        inputs = {"input_ids": torch.from_numpy(row.ids)[None]}
        if row.decoder_target is not None:
            start = torch.tensor([[model.config.decoder_start_token_id]])
            target = torch.from_numpy(row.decoder_target)[None]
            inputs["decoder_input_ids"] = torch.cat([start, target[:, :-1]], 1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, row.positions].double()
        targets = torch.from_numpy(row.targets)
        nlls.append(float(nn.functional.cross_entropy(logits, targets, reduction="sum")))
    return nlls
