"""The exceptions and warnings of forksafe.

Two are elsewhere: InheritedFutureError needs concurrent.futures, ForkHazardError carries the hazards. They are in
executors/inherited.py and diagnostics/hazard.py.
"""

from __future__ import annotations

__all__ = [
    "ChildError",
    "ChildTimeout",
    "ForkHazardWarning",
    "InheritedConnectionError",
    "InheritedResourceError",
    "PoolClosed",
    "PoolTimeout",
    "UnknownDescriptorsWarning",
]


class ForkHazardWarning(RuntimeWarning):
    """A fork went ahead although something was alive that breaks, or may be torn, in the child."""


class UnknownDescriptorsWarning(ForkHazardWarning):
    """forksafe could not find the descriptors of a connection that it was given: a child would share them."""


class InheritedConnectionError(RuntimeError):
    """A connection that a pool handed out before the fork was used through the pool in a child."""


class InheritedResourceError(RuntimeError):
    """A value of a resource made with on_fork="raise" was asked for in a child of the process that made it."""


class PoolClosed(RuntimeError):
    """A connection was asked of a ConnectionPool that is closed."""


class PoolTimeout(TimeoutError):
    """A ConnectionPool had no connection to give in time."""


class ChildError(RuntimeError):
    """A child of testing.run_in_child() ended without a result, or with one that cannot be passed on.

    status: what os.waitstatus_to_exitcode() makes of its end; negative for a signal, None when it had to be killed.
    stacks: the stacks it had, where they could be had; else an empty string.
    """

    def __init__(self, message: str, *, status: int | None = None, stacks: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.stacks = stacks


class ChildTimeout(ChildError, TimeoutError):
    """A child of testing.run_in_child() hung and was killed; the message has its stacks."""
