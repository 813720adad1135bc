"""Checkpoint files: complete, strict, and never at the cost of an earlier one."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from icgan_training.errors import CheckpointError
from icgan_training.fit.resume import (
    Stateful,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
)


def trained(width=4, seed=0, steps=3):
    """A small network and its optimiser after a few steps, with channels-last kernels."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
    kernel = next(network.parameters())
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for _ in range(steps):
        network(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network, optimizer


def state(network, optimizer):
    return Stateful({"network": network}, {"optimizer": optimizer})


def test_everything_comes_back_with_its_values_and_memory_layout(tmp_path):
    saved = state(*trained())
    save_checkpoint(tmp_path / "a.safetensors", saved, {"step": 3, "fid": None})
    network, optimizer = trained(seed=1, steps=0)
    loaded = state(network, optimizer)
    assert load_checkpoint(tmp_path / "a.safetensors", loaded) == {"step": 3, "fid": None}
    assert loaded.tensors().keys() == saved.tensors().keys()
    for name, tensor in saved.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)
        assert loaded.tensors()[name].stride() == tensor.stride()


def test_all_of_adams_state_comes_back_to_the_device_of_the_weights(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", Stateful({}, {"optimizer": trained()[1]}), {})
    elsewhere = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")  # stands for a GPU
    optimizer = torch.optim.Adam(elsewhere.parameters(), fused=True)
    load_checkpoint(tmp_path / "a.safetensors", Stateful({}, {"optimizer": optimizer}))
    restored = [(name, tensor) for entry in optimizer.state.values() for name, tensor in entry.items()]
    assert {name for name, _ in restored} == {"step", "exp_avg", "exp_avg_sq"}
    assert {tensor.device.type for _, tensor in restored} == {"meta"}


def test_a_full_disk_leaves_the_earlier_checkpoints_and_names_the_last(tmp_path):
    # RLIMIT_FSIZE makes the kernel refuse the write half way, as a full disk would.
    script = f"""
import resource, sys, torch
from pathlib import Path
from icgan_training.errors import CheckpointError
from icgan_training.fit.resume import Stateful, checkpoint_path, save_checkpoint
folder = Path({str(tmp_path)!r})
state = Stateful({{"network": torch.nn.Linear(100, 100)}}, {{}})
save_checkpoint(checkpoint_path(folder, 1), state, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))
try:
    save_checkpoint(checkpoint_path(folder, 2), state, {{}})
except CheckpointError as error:
    sys.exit(str(error))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert f"the last good checkpoint is {checkpoint_path(tmp_path, 1)}" in done.stderr
    assert "free some space" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    load_checkpoint(checkpoint_path(tmp_path, 1), Stateful({"network": nn.Linear(100, 100)}, {}))


def test_a_truncated_checkpoint_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "step-000000003.safetensors"
    save_checkpoint(path, state(*trained()), {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"step-000000003.* is damaged .*delete it"):
        load_checkpoint(path, state(*trained()))


def test_a_checkpoint_of_another_model_is_refused_naming_the_tensor(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", state(*trained(width=4)), {})
    with pytest.raises(
        CheckpointError, match=r"network\.0\.weight is \[4, 3, 3, 3\], expected \[6, 3, 3, 3\]"
    ):
        load_checkpoint(tmp_path / "a.safetensors", state(*trained(width=6)))


def test_the_newest_are_kept_and_half_written_ones_go(tmp_path):
    for step in (5, 900, 10_000_000):
        save_checkpoint(checkpoint_path(tmp_path, step), state(*trained(steps=1)), {})
    (tmp_path / ".step-000000007.0a1b2c3d.safetensors").write_bytes(b"killed")
    (tmp_path / "best.safetensors").write_bytes(b"another rule")
    prune(tmp_path, keep=2)
    assert list_checkpoints(tmp_path) == [
        checkpoint_path(tmp_path, 900),
        checkpoint_path(tmp_path, 10_000_000),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-000000900.safetensors",
        "step-010000000.safetensors",
        "best.safetensors",
    }
