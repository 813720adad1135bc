"""Whether a graph answers as torch does."""
