"""The moving average of the generator."""

import torch
from torch import nn

from icgan_training.fit.ema import MovingAverage


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def shift(module, amount):
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.add_(amount)


def test_before_its_start_the_average_is_a_copy():
    module = network()
    average = MovingAverage(module, decay=0.9, start=3)
    shift(module, 1)
    average.update(2)
    for mine, theirs in zip(average.module.state_dict().values(), module.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_weights_and_batch_statistics_move_by_one_minus_decay_and_counters_are_copied():
    module = network()
    average = MovingAverage(module, decay=0.9, start=3)
    before = {name: tensor.clone() for name, tensor in average.module.state_dict().items()}
    shift(module, 1)
    average.update(3)
    after = average.module.state_dict()
    assert after.pop("1.num_batches_tracked") == 1
    assert {"0.weight", "1.running_mean", "1.running_var"} <= after.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name] + 0.1)


def test_the_average_is_in_eval_mode_and_takes_no_gradient():
    average = MovingAverage(network().train(), decay=0.9, start=0)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
