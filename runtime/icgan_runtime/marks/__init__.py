"""What a picture file says of its own making: claim, unsigned metadata, signed manifest."""
