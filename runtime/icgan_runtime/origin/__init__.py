"""Where a picture comes from: proof by drawing again, the key in the weights, and the log."""
