"""From pictures to a prepared data set."""
