"""A bundle given other stored instances, or an index of those it has."""
