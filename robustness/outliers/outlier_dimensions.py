"""The outlier dimensions that a rule found, as users hold them."""

from collections.abc import Iterable, Iterator

from robustness.errors import NotFinite
from robustness.outliers.outliers import Detection, Outlier
from robustness.statistics.verdict import Verdict


class OutlierDimensions:
    """The outlier dimensions a rule found; iterates over their indices.

    Raises:
        NotFinite: if it could not compare anything.
    """

    def __init__(self, detection: Detection) -> None:
        if detection.not_finite is not None:
            raise NotFinite(detection.not_finite)
        self.detection = detection

    @property
    def dims(self) -> tuple[int, ...]:
        """Their indices in the hidden vector, ascending."""
        return self.detection.dims

    def __iter__(self) -> Iterator[int]:
        return iter(self.dims)

    def __len__(self) -> int:
        return len(self.dims)

    def __contains__(self, dim: object) -> bool:
        return dim in self.dims

    def __getitem__(self, index: int) -> Outlier:
        """One outlier with its layers and z-scores."""
        return self.detection.outliers[index]

    def __repr__(self) -> str:
        return f"<{self.detection.rule}: {named(self.dims) if self.dims else 'none'}>"

    def count_lies_within(self, minimum: int, maximum: int) -> Verdict:
        """Whether there are at least ``minimum`` and at most ``maximum``."""
        count = len(self)
        passed = minimum <= count <= maximum
        reason = self._found()
        if count < minimum:
            reason += (
                ": this can mean an undertrained model, one whose outliers another rule or site "
                "would show, or one built to have none (expectation hardened)"
            )
        elif count > maximum:
            reason += ": this can mean that the rule is too lax for this model (see its settings)"
        return Verdict(
            outcome="pass" if passed else "fail",
            statement=f"the rule finds {minimum} to {maximum} outlier dimensions",
            reason=reason,
        )

    def noted(self) -> Verdict:
        """Whatever was found is accepted and recorded."""
        statement = "outlier dimensions are looked for (a hardened model may have some or none)"
        return Verdict(outcome="pass", statement=statement, reason=self._found())

    def _found(self) -> str:
        return f"found {named(self.dims)}" if self.dims else "no outlier dimensions were found"


def named(dims: Iterable[int]) -> str:
    """``dimension 3`` or ``dimensions 3, 5``."""
    numbers = list(dims)
    return f"dimension{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
