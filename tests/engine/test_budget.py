"""What fits into a budget, against the sum of what is then computed."""

from types import SimpleNamespace

import pytest

from vivit.config import Config, OptimConfig
from vivit.engine.budget import Budget, fitting_epochs


def epochs_in(seconds, epochs=47.0, val=74):
    budget = Budget(seconds, per_clip=0.159)
    config = Config(optim=OptimConfig(epochs=epochs), eval_every=epochs / 10)
    return fitting_epochs(budget, config, SimpleNamespace(train=range(220), val=range(val)))


def test_the_epochs_that_fit_leave_time_for_all_validations():
    for seconds in (600, 900, 3600):
        training, validations = 3 * 220 * epochs_in(seconds), 11 * 74  # ten, and one before the first step
        assert 0.159 * (training + validations) == pytest.approx(0.9 * seconds, rel=1e-3)
    assert epochs_in(380) == 0.0  # two epochs would fit
    assert epochs_in(1e6) == 47.0
    assert epochs_in(float("inf")) == 47.0


def test_no_epochs_fit_where_validations_alone_take_the_time():
    assert epochs_in(900, val=10_000) == 0.0
    assert epochs_in(900, epochs=3.0, val=10_000) == 0.0
