"""What a child is blocked on: a snapshot taken in the parent before the fork, and a comparison with the child's stacks.

snapshot.py records, blocked_lock.py finds the lock of a blocked thread, hang.py explains, watchdog.py reports.
"""
