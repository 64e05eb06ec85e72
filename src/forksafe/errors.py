"""Every exception and warning that forksafe raises of its own."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from forksafe.diagnostics.hazard import Hazard
    from forksafe.executors.futures import InheritedFutureError

__all__ = [
    "ChildError",
    "ChildTimeout",
    "ForkHazardError",
    "ForkHazardWarning",
    "InheritedConnectionError",
    "InheritedFutureError",
    "InheritedResourceError",
    "PoolClosed",
    "PoolTimeout",
    "UnknownDescriptorsWarning",
]


class ForkHazardWarning(RuntimeWarning):
    """A fork went ahead although something was alive that breaks, or may be torn, in the child."""


class UnknownDescriptorsWarning(ForkHazardWarning):
    """A connection was given to forksafe whose descriptors it could not find: a child would share them."""


class InheritedConnectionError(RuntimeError):
    """A connection that a pool handed out before the fork was used through the pool in a child."""


class InheritedResourceError(RuntimeError):
    """A value of a resource made with on_fork="raise" was asked for in a child of the process that made it."""


class PoolClosed(RuntimeError):
    """A connection was asked of a ConnectionPool that is closed."""


class PoolTimeout(TimeoutError):
    """A ConnectionPool had no connection to give in time."""


class ForkHazardError(RuntimeError):
    """guard("raise") refused a fork, before anything of it had run. hazards: what it would have broken."""

    def __init__(self, message: str, hazards: list[Hazard]) -> None:
        super().__init__(message)
        self.hazards = hazards


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


if not TYPE_CHECKING:

    def __getattr__(name):
        """InheritedFutureError is a BrokenExecutor, and importing concurrent.futures takes long."""
        if name != "InheritedFutureError":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from forksafe.executors.futures import InheritedFutureError

        return InheritedFutureError
