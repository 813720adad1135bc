"""Several processes as one: what torchrun's environment says, and the few collective operations we need.

The two networks are trained in alternation, each frozen in the other's step, and gradients accumulate over
several backward passes. Averaging the finished gradients by hand, in one flat message, says this more
plainly than two DistributedDataParallel wrappers, whose hooks would have to be switched on and off.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from icgan_runtime.cpus import usable_cpus

LONGEST_WAIT = timedelta(days=1)  # shards of `prepare` and evaluations take their time


@dataclass(frozen=True)
class Processes:
    """This process among all that train one model."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


ALONE = Processes()


def join(device: torch.device) -> Processes:
    """Join the group torchrun started, with nccl on GPUs and gloo on CPUs; alone without torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if not dist.is_initialized():
        # Tensors on GPUs go through nccl, those on the CPU through gloo.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT
        )
    return Processes(dist.get_rank(), dist.get_world_size())


def wait(processes: Processes) -> None:
    """Return when every process has come here."""
    if processes.world > 1:
        dist.barrier()


def any_of(flag: bool, processes: Processes) -> bool:
    """Whether the flag is set on any process; all of them get the same answer.

    The message is one byte between the CPUs, so no GPU is waited for.
    """
    if processes.world == 1:
        return flag
    message = torch.tensor([flag], dtype=torch.uint8)
    dist.all_reduce(message, dist.ReduceOp.MAX)
    return bool(message.item())


def leave() -> None:
    """Leave the group, if there is one: at the end of work, not after an error.

    nccl waits here until every process leaves; the others would be waiting for this one somewhere else, and
    the error would never be printed. A process that ends without leaving lets torchrun end the others.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU torchrun means for this process, the only one, or the CPU.

    torch is held to the CPUs that the process may use: by itself it does not see a container's quota.
    """
    if torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def average_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Replace every gradient by its mean over the processes."""
    if processes.world == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes.world
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def average(values: Tensor, processes: Processes) -> Tensor:
    """The mean of a tensor over the processes."""
    if processes.world > 1:
        dist.all_reduce(values)
        values /= processes.world
    return values
