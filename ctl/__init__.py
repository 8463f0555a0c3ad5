"""The bridge: sessions, commands and the namespace between `fs9p` and `engine`, and the command."""

__version__ = "0.1.0"
