"""Convolutions in float32 as the CPU computes them, on GPUs too."""

from contextlib import AbstractContextManager

import torch


def full_float32() -> AbstractContextManager[None]:
    """Within it a GPU's cuDNN does not shorten float32 to TF32, as it does by default.

    What is compared with other machines' results is made in it: embeddings, features, samples to score.
    """
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
