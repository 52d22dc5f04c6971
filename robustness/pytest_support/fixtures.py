"""Fixtures for the packaged suite and for users' own tests."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.checks.planned import PlannedCheck
    from robustness.pytest_support.gate import Gate
    from robustness.vetting import Vetting


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> "Iterator[Checkpoint]":
    """The checkpoint under test, one after the other for every ``--model``."""
    from robustness.pytest_support.state import STATE

    if not hasattr(request, "param"):
        pytest.fail(
            "the fixtures checkpoint and vetting must be arguments of the test or of its fixtures: "
            "request.getfixturevalue comes too late to run it for every --model",
            pytrace=False,
        )
    state = request.config.stash[STATE]
    yield state.vetting(request.param).checkpoint
    state.release(request.param)


@pytest.fixture
def vetting(checkpoint: "Checkpoint", request: pytest.FixtureRequest) -> "Vetting":
    """The checkpoint with its corpus and policy: find outliers, ablate, ask for verdicts.

    Example::

        def test_my_release_depends_on_its_outliers(vetting):
            assert vetting.ablate(vetting.outliers()).degrades(by=1.5)
    """
    from robustness.pytest_support.state import STATE

    callspec = request.node.callspec  # parametrised by ``checkpoint``
    return request.config.stash[STATE].vetting(callspec.params["checkpoint"])


@pytest.fixture
def gate(request: pytest.FixtureRequest, check: "PlannedCheck") -> "Gate":
    """Where a test of the packaged suite hands in its verdict."""
    from robustness.pytest_support.gate import Gate
    from robustness.pytest_support.state import STATE

    gate = Gate(request.node, check, request.config.stash[STATE].plan.alpha)
    gate.skip_unless_applicable()
    return gate


@pytest.fixture
def check(request: pytest.FixtureRequest) -> "PlannedCheck":
    """The planned check that a test of the packaged suite decides."""
    planned: PlannedCheck = request.param
    return planned


@pytest.fixture
def dims(check: "PlannedCheck") -> tuple[int, ...]:
    """The dimensions that a test of the packaged suite is about."""
    return check.dims
