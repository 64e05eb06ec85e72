"""Six small programs that fork at a bad moment. `forksafe demo` runs them all; each also runs alone:

    python cache.py threading    # hangs: Ctrl-C ends it
    python cache.py forksafe     # prints one line

A fork copies every lock but only one thread. A lock that another thread holds at that moment stays locked in the child,
and no thread there can release it. The programs use events to make that moment certain: the thread that holds the lock
sets one, and continues only after the fork. From Python 3.12 on, Python warns of such forks.

prefork_server.py and sqlalchemy_workers.py show more of forksafe, and need a PostgreSQL.
"""
