"""Which settings serve most images within a bound on latency: found against the real server."""
