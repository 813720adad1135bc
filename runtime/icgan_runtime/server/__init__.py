"""The server, seen from inside: its models, its repository, its process."""
