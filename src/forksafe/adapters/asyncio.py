"""The adapter for asyncio's event loops that are made of a selector.

Guarantees: a child that goes on with an inherited loop has a selector and a self-pipe of its own, with the same
descriptors registered. Neither process takes events from the other, nor wakes it. Callbacks, tasks and transports are
left as they are.

Why that survives fork: an epoll and the self-pipe are shared with the child; a kqueue is not inherited. The child
replaces them; the inherited ones are tombstones before any of its code runs.

Not covered: a loop that was running in a thread that vanished: it counts as running for good, as without forksafe.
Loops that have no selector (uvloop).
"""

from __future__ import annotations

import signal
from typing import Any

from forksafe.adapters.registry import Adapter

__all__ = ["ADAPTERS"]


def _renew(loop: Any) -> None:
    if loop.is_closed():
        return
    inherited = loop._selector
    loop._selector = _copy_of(inherited)
    wakes = _forget_wakeup(loop._csock.fileno())
    loop._close_self_pipe()
    loop._make_self_pipe()
    if wakes:
        signal.set_wakeup_fd(loop._csock.fileno(), warn_on_full_buffer=False)  # as add_signal_handler() does


def _copy_of(selector: Any) -> Any:
    fresh = type(selector)()
    for key in list(selector.get_map().values()):
        try:
            fresh.register(key.fileobj, key.events, key.data)
        except (OSError, ValueError, KeyError):  # closed, but not unregistered
            continue
    return fresh


def _forget_wakeup(descriptor: int) -> bool:
    """Signals wake the loop by this descriptor no more; returns whether they did."""
    try:
        before = signal.set_wakeup_fd(-1)
    except ValueError:  # not the main thread
        return False
    if before not in (-1, descriptor):
        signal.set_wakeup_fd(before)
    return before == descriptor


ADAPTERS = {
    "asyncio.selector_events.BaseSelectorEventLoop": Adapter(connections=lambda loop: [loop], reset=_renew),
}
