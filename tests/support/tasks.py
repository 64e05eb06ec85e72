"""Tasks that a fork waits for."""

from __future__ import annotations

import threading
import time

from forksafe.atfork import quiesce
from support.threads import Busy


class Account:
    """Two numbers that a task changes one after the other; torn while they differ."""

    def __init__(self):
        self.one = self.two = 0
        self.torn, self.go_on = threading.Event(), threading.Event()

    def change(self):
        self.one += 1
        self.torn.set()
        self.go_on.wait(10)
        self.two += 1

    def in_child(self):
        return self.one == self.two


def let_go_when_it_waits(account, executor):
    """Have the task go on once the fork has paused the executor, and not before."""

    def watch():
        deadline = time.monotonic() + 10
        while not quiesce.is_paused(executor) and time.monotonic() < deadline:
            time.sleep(0.01)
        account.go_on.set()

    return Busy(lambda: None, watch)
