"""The one exception that means "the user can mend this": a clear line and exit status 2."""


class UserError(Exception):
    """Bad input. The message is one line that names the file, key or value and the remedy."""
