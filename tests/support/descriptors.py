"""What a child finds that uses an inherited descriptor."""

from __future__ import annotations

import errno


def error_of(call):
    """The errno of what call() raises, or what it returns."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def use_socket(a):
    return error_of(lambda: a.send(b"from the child")), error_of(lambda: a.recv(9))
