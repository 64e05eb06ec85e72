"""FutureState and WorkQueue where there is no fork: concurrent.futures.Future does, and a queue under one condition."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import GenericAlias
from typing import Any, final

__all__ = ["FutureState", "WorkQueue"]


class FutureState:
    """Nothing: the methods are concurrent.futures.Future's, from which what is derived from this is derived, too."""

    __class_getitem__: Any = classmethod(GenericAlias)
    _done_callbacks: list[Callable[[Any], object]]

    def _take_callbacks(self) -> list[Callable[[Any], object]]:
        return self._done_callbacks

    def _look(self) -> None:
        pass


@final
class WorkQueue:
    """grow: called with the future that was submitted when there should be one thread more."""

    inherited = False

    def __init__(self, future_type: type[Any], limit: int, grow: Callable[[Any], object]) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._items: deque[tuple[Any, ...]] = deque()
        self._future_type = future_type
        self._limit = limit
        self._grow = grow
        self._unfinished = 0
        self._paused = False
        self.threads = self.running = 0
        self.closed = False

    def qsize(self) -> int:
        return len(self._items)

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        future = self._future_type()
        with self._changed:
            if self.closed:
                return None
            self._items.append((future, fn, args, kwargs))
            self._unfinished += 1
            grow = self.threads < min(self._limit, self._unfinished)
            self.threads += grow
            self._changed.notify_all()
        if grow:
            self._grow(future)
        return future

    def run_next(self) -> Any:
        with self._changed:
            while self._paused or not self._items:
                if self.closed and not self._paused:
                    return None
                self._changed.wait()
            self.running += 1
            item = self._items.popleft()
        try:
            self._execute(*item)
        finally:
            del item
            self.leave()
        return True

    def _execute(self, future: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        result = error = None
        begun = future.set_running_or_notify_cancel()
        try:
            result = fn(*args, **kwargs) if begun else None
        except BaseException as raised:
            error = raised
        with self._changed:
            self._unfinished -= 1  # before others see it done: this thread is theirs to use
        try:
            if begun:
                future.set_result(result) if error is None else future.set_exception(error)
        finally:
            del future, fn, args, kwargs, result, error  # the exception's traceback leads back to this frame

    def enter(self) -> None:
        with self._changed:
            while self._paused:
                self._changed.wait()
            self.running += 1

    def leave(self) -> None:
        with self._changed:
            self.running -= 1
            self._changed.notify_all()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def wait_idle(self, but: int, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.running <= but, seconds)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def take_rest(self) -> list[Any]:
        with self._changed:
            rest = [item[0] for item in self._items]
            self._items.clear()
            self._unfinished -= len(rest)
        return rest

    def forget_thread(self) -> None:
        with self._changed:
            self.threads -= 1

    def withdraw(self, future: Any) -> bool:
        with self._changed:
            for item in self._items:
                if item[0] is future:
                    self._items.remove(item)
                    self._unfinished -= 1
                    return True
        return False
