"""What ends a command on purpose."""


class UserError(Exception):
    """Bad input or an unusable environment; its message is one line that names the remedy."""


class Stopped(BaseException):
    """A signal asked the process to end. Not an Exception: nothing that mends those may keep it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
