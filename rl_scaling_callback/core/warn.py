"""The way to warn a user."""

from collections.abc import Callable

Warn = Callable[[str, str], None]
"""Takes a topic and a message; logs the first message of each topic."""
