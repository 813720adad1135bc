"""Runtime side of icgan: run an exported bundle in-process or talk to a server, without torch."""

__version__ = "0.1.0"
