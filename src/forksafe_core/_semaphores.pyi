import threading
from types import TracebackType
from typing import Literal

from typing_extensions import disjoint_base

# isinstance(semaphore, threading.Semaphore) is true of these, so to a type checker, too, they are threading's.

@disjoint_base
class Semaphore(threading.Semaphore):
    def __init__(self, value: int = 1, *, at_fork: Literal["keep", "restore"] = "keep") -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool: ...
    def release(self, n: int = 1) -> None: ...
    def __enter__(self) -> bool: ...  # type: ignore[override]  # threading passes arguments on to acquire()
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...
    @property
    def _value(self) -> int: ...  # type: ignore[override]

class BoundedSemaphore(Semaphore, threading.BoundedSemaphore):
    def __init__(self, value: int = 1) -> None: ...
    @property
    def _initial_value(self) -> int: ...
