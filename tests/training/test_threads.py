"""Threads of torch where a process may use fewer CPUs than the machine has."""

import torch

from icgan_training import distributed


def test_torch_starts_no_more_threads_than_a_containers_quota_allows(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(distributed, "usable_cpus", lambda: 2)
        distributed.local_device()  # as prepare, fit and evaluate begin
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)  # asked for, as torchrun does by OMP_NUM_THREADS
        distributed.local_device()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
