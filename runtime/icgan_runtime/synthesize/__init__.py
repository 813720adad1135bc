"""Variants of whole data sets: units of work that all workers do alike, shards that say what they hold."""
