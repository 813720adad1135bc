"""Pictures that are looked for: the best of many, on a path between two, or by a search over the noise."""
