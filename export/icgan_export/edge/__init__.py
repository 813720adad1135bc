"""A bundle's graphs in the formats of edge runtimes: converted, run there, compared."""
