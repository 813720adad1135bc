"""Training side of icgan: data preparation, neighbourhoods, IC-GAN training and evaluation (torch)."""

__version__ = "0.1.0"
