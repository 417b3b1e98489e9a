"""The version of the program. Nothing else is here, so that every package may import it."""

__version__ = "0.1.0"
