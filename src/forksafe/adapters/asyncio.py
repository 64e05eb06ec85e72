"""renew(): an asyncio event loop that was made before a fork, put right in the child.

Guarantees: a child that goes on with an inherited loop has a selector and a self-pipe of its own; whatever was
registered still is. So neither process takes events from the other, nor wakes it. Callbacks, tasks and transports are
left as they are.

Why that survives fork: an epoll is shared with the child, registrations included, and so is the self-pipe; a kqueue is
not inherited at all. The inherited ones are only let go, after a tombstone has been put over them.

Not covered: a loop that a vanished thread was running: it counts as running for good, as without forksafe. Loops that
are not made of a selector (uvloop).
"""

from __future__ import annotations

import signal
from typing import Any

from forksafe.adapters.registry import register_adapter

__all__ = ["renew"]


def renew(loop: Any) -> None:
    """In a child: give this loop, unless it is closed, a selector and a self-pipe of its own."""
    if loop.is_closed():
        return
    inherited = loop._selector
    loop._selector = _same_again(inherited)
    wakes = _forget_wakeup(loop._csock.fileno())
    loop._close_self_pipe()
    loop._make_self_pipe()
    if wakes:
        signal.set_wakeup_fd(loop._csock.fileno(), warn_on_full_buffer=False)  # as add_signal_handler() does


def _same_again(selector: Any) -> Any:
    fresh = type(selector)()
    for key in list(selector.get_map().values()):
        try:
            fresh.register(key.fileobj, key.events, key.data)
        except (OSError, ValueError, KeyError):  # it was closed behind the loop's back
            continue
    return fresh


def _forget_wakeup(descriptor: int) -> bool:
    """True if signals wake the loop by this descriptor, which they now no longer do."""
    try:
        before = signal.set_wakeup_fd(-1)
    except ValueError:  # not the main thread: a hook that runs late
        return False
    if before not in (-1, descriptor):
        signal.set_wakeup_fd(before)
    return before == descriptor


register_adapter("asyncio.selector_events.BaseSelectorEventLoop", connections=lambda loop: [loop], reset=renew)
