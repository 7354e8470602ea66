"""Test training/optim.py: weight decay, learning-rate schedule, EMA of the weights."""

import pytest
import torch

from pipelines.training.optim import make_ema, make_optimizer, make_schedule
from pipelines.training.options import TrainOptions
from ttrnn.model import ModelConfig, VideoClassifier


def options(**kwargs):
    return TrainOptions(shards="shards", out="out", **kwargs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoClassifier(
        ModelConfig(width=8, height=4, channels=1, classes=("a", "b"), hidden_modes="2x2x2", ranks="2")
    )


def without_gradients(model):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("decayed", ["all", "head"])
def test_the_option_decayed_selects_the_weights_that_decay(model, decayed):
    without_gradients(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    make_optimizer(options(lr=0.1, weight_decay=0.5, decayed=decayed), model).step()
    for name, weight in model.named_parameters():
        decays = decayed == "all" or name.startswith("head.")
        torch.testing.assert_close(weight.detach(), before[name] * (0.95 if decays else 1.0))


def test_the_weight_decay_of_adam_is_an_l2_penalty_in_the_gradient(model):
    without_gradients(model)
    before = model.head.weight.detach().clone()
    make_optimizer(options(optimizer="adam", lr=0.1, weight_decay=0.5, decayed="head"), model).step()
    # Adam's first step depends on the sign of the gradient only.
    torch.testing.assert_close(model.head.weight.detach(), before - 0.1 * before.sign(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["one_cycle", "constant"])
def test_the_learning_rate_follows_its_schedule(model, name):
    chosen = options(lr=0.1, schedule=name)
    optimizer = make_optimizer(chosen, model)
    schedule, rates = make_schedule(chosen, optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    if name == "constant":
        assert set(rates) == {0.1}
    else:
        assert max(rates) == pytest.approx(0.1, rel=1e-2)
        assert rates[0] < 0.01 > rates[-1]
        assert 20 < rates.index(max(rates)) < 40


def test_the_ema_has_its_decay_and_a_smaller_one_early_on(model):
    ema, expected = make_ema(options(weight_averaging=0.8), model), None
    for step in range(60):
        for parameter in model.parameters():
            parameter.data.fill_(float(step))
        ema.update_parameters(model)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        for parameter in ema.module.parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    # It lags by 0.8 / (1 - 0.8) steps.
    assert expected == pytest.approx(59 - 4, abs=0.1)


def test_there_is_no_ema_by_default(model):
    assert make_ema(options(), model) is None
