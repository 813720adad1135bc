"""Exact rewrites of modules that make them fast."""
