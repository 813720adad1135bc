"""Nearest stored instances, by one of several libraries."""
