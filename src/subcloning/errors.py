"""The one kind of error that this package raises by itself."""


class SubcloningError(ValueError):
    """What was asked for cannot be done; the message says what was given, what was expected and what to do."""
