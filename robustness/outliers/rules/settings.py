"""The rules' settings: the tables ``[rules.<name>]`` of a policy, strictly validated."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from robustness.store.documents import StrictTable

Rule = Literal["busters", "puccetti", "llm-int8", "massive", "variance", "kurtosis", "super-weight"]


class Busters(StrictTable):
    """Rule ``busters``. The paper's authors relax k to 2 and the share to 1/3 for single models."""

    k: float = Field(default=3.0, gt=0, allow_inf_nan=False, description="standard deviations")
    min_layer_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of the layers in which a dimension must stand out",
    )


class Puccetti(StrictTable):
    """Rule ``puccetti``, as its authors coded it or as their paper describes it."""

    variant: Literal["code", "paper"] = Field(
        default="code", description="as coded, or as the paper describes it"
    )
    n_std: float = Field(default=3.0, gt=0, allow_inf_nan=False, description="standard deviations")
    min_layers: int = Field(
        default=4, ge=1, description="layers in which a parameter must stand out (as coded)"
    )
    topk: int = Field(
        default=6, ge=1, description="entries taken of the two interleaved lists (as coded)"
    )


class LlmInt8(StrictTable):
    """Rule ``llm-int8``."""

    threshold: float = Field(default=6.0, gt=0, allow_inf_nan=False, description="on |value|")
    min_layer_share: float = Field(default=0.25, gt=0, le=1, description="share of the layers")
    min_position_share: float = Field(default=0.06, gt=0, le=1, description="share of positions")


class Massive(StrictTable):
    """Rule ``massive``."""

    threshold: float = Field(default=100.0, ge=0, allow_inf_nan=False, description="on |value|")
    median_factor: float = Field(
        default=1000.0, gt=0, allow_inf_nan=False, description="times the median |value|"
    )


class Variance(StrictTable):
    """Rule ``variance``."""

    factor: float = Field(default=5.0, gt=0, allow_inf_nan=False, description="times the mean")


class Kurtosis(StrictTable):
    """Rule ``kurtosis``."""

    n_std: float = Field(default=6.0, gt=0, allow_inf_nan=False, description="standard deviations")
    min_layer_share: float = Field(default=0.5, gt=0, le=1, description="share of the layers")


class SuperWeight(StrictTable):
    """Rule ``super-weight``."""

    threshold: float = Field(default=50.0, gt=0, allow_inf_nan=False, description="of a spike")
    max_rounds: int = Field(default=10, ge=1, description="readings of the text at most")


class Rules(StrictTable):
    """Settings of the rules that find outlier dimensions."""

    text_blocks: int = Field(
        default=8, ge=1, description="text blocks that the rules on activations read"
    )
    busters: Busters = Busters()
    puccetti: Puccetti = Puccetti()
    llm_int8: LlmInt8 = Field(default=LlmInt8(), alias="llm-int8")
    massive: Massive = Massive()
    variance: Variance = Variance()
    kurtosis: Kurtosis = Kurtosis()
    super_weight: SuperWeight = Field(default=SuperWeight(), alias="super-weight")

    def of(self, rule: str) -> dict[str, Any]:
        """The settings of one rule, by its name."""
        settings: BaseModel = getattr(self, rule.replace("-", "_"))
        return settings.model_dump()
