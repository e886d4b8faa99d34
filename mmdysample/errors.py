"""What a user can put right, as exceptions: their text is one sentence.

The command-line tools print the sentence of a `UserError` and end with status 2; every other
exception is a bug and keeps its traceback (engine/errors.py). In a user's own program
`InvalidValue` and `InvalidType` are what Python's libraries raise for wrong arguments: a ValueError
and a TypeError.
"""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can put right; its text is one sentence that says what and how."""


class InvalidValue(UserError, ValueError):
    """An argument of the right type with a value that is not accepted."""


class InvalidType(UserError, TypeError):
    """An argument of a type that is not accepted, or one that does not exist."""
