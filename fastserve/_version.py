"""The one place with the version."""

__version__ = "0.1.0.dev0"
