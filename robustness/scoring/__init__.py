"""What a model is asked about a text block, by the way it was trained.

Every module holds one way of asking: pure functions of a text block and a seed that return
:class:`ScoredBlock` objects. :mod:`robustness.scoring.questions` chooses among them.
"""

from robustness.scoring.block import PlannedChunk, ScoredBlock
from robustness.scoring.causal import causal_block
from robustness.scoring.masked import masked_block, masked_rows

__all__ = ["PlannedChunk", "ScoredBlock", "causal_block", "masked_block", "masked_rows"]
