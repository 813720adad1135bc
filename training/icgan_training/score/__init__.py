"""What trained weights are worth."""
