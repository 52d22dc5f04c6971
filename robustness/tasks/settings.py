"""What a policy says of a task, strictly validated."""

from typing import Literal

from pydantic import Field

from robustness.checkpoint.task_heads import KindChoice
from robustness.store.documents import StrictTable

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]
MetricChoice = Literal["auto", "accuracy", "f1", "matthews", "pearson", "spearman"]


class TaskSettings(StrictTable):
    """The task that a checkpoint was made for; without ``data`` there is none."""

    data: str | None = Field(
        default=None,
        min_length=1,
        description="glue/NAME, FILE:text,text:label or id:config:split:text,text:label",
    )
    kind: KindChoice = Field(
        default="auto", description="auto: by the checkpoint's head; without one, similarity"
    )
    metric: MetricChoice = Field(
        default="auto", description="the score; auto: the task's own, accuracy or spearman"
    )
    max_length: int = Field(default=256, ge=8, description="tokens of an example at most")
