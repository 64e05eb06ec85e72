"""protect() for event loops."""

from __future__ import annotations

import forksafe
from forksafe.testing import run_in_child


def test_event_loop(fork):
    """A child that takes a reader away takes it from its own, dead, epoll."""
    import asyncio
    import socket

    loop = forksafe.protect(asyncio.new_event_loop())
    a, b = socket.socketpair()
    seen = []
    loop.add_reader(a, lambda: (seen.append(a.recv(9)), loop.stop()))

    def child():
        forksafe.generation()
        loop.remove_reader(a)
        return True

    assert run_in_child(child, fork=fork)
    b.send(b"x")
    loop.call_later(5, loop.stop)
    loop.run_forever()
    assert seen == [b"x"]
    loop.close()
    a.close()
    b.close()


def test_control_event_loop():
    import asyncio
    import socket

    loop = asyncio.new_event_loop()
    a, b = socket.socketpair()
    seen = []
    loop.add_reader(a, lambda: (seen.append(a.recv(9)), loop.stop()))
    run_in_child(lambda: loop.remove_reader(a))
    b.send(b"x")
    loop.call_later(0.2, loop.stop)
    loop.run_forever()
    assert seen == []
    loop.close()
    a.close()
    b.close()
