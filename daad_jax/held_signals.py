"""Holds SIGTERM and Ctrl-C until a command can end with its usual line."""

import signal

HELD = (signal.SIGINT, signal.SIGTERM)


def hold_signals() -> None:
    """Holds the signals until `release_signals`. They stay held if this process restarts its program."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release_signals() -> None:
    """Delivers the held signals, and lets further signals arrive."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
