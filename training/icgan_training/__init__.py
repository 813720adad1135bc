"""Training side of icgan: data preparation, neighbourhoods, IC-GAN training and evaluation (torch)."""
