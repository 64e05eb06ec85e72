"""hazards(): executors and listeners."""

from __future__ import annotations

import concurrent.futures
import logging.handlers
import queue

import forksafe
from support.hazards import of


def test_executors_and_listeners():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert of("executor") == [], "it has no thread yet"
        executor.submit(pow, 2, 5).result(10)
        (hazard,) = of("executor")
        assert (hazard.severity, hazard.module) == ("danger", "concurrent")
        assert "forksafe.ThreadPoolExecutor" in hazard.cure
        forksafe.protect(executor)
        assert of("executor") == []
    listener = logging.handlers.QueueListener(queue.Queue())
    listener.start()
    (hazard,) = of("executor", what="QueueListener")
    listener.stop()
    assert of("executor") == []
