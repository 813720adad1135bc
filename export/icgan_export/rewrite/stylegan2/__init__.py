"""Exact rewrites of the StyleGAN2 generator."""
