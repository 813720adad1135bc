"""The StyleGAN2 backbone of IC-GAN: written from the papers and from facts about the published weights."""
