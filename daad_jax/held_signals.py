"""Holds SIGTERM and Ctrl-C until a command can end in its usual line."""

import signal

HELD = (signal.SIGINT, signal.SIGTERM)


def hold_signals() -> None:
    """Lets the signals wait until `release_signals`. They wait on if this process replaces itself."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release_signals() -> None:
    """Lets the signals come, and those that have waited."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
