"""Training side of icgan: data preparation, neighbourhoods, IC-GAN training and evaluation (torch)."""

from icgan_runtime import __version__

__all__ = ["__version__"]
