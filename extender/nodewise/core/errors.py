"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input, told in one sentence that names the thing and the fix; the CLI prints it and exits with code 2."""
