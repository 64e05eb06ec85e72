"""Six small programs that fork at a bad moment. `forksafe demo` runs them all; each also runs alone:

    python cache.py threading    # hangs: Ctrl-C ends it
    python cache.py forksafe     # prints one line

A fork copies every lock but only one thread. A lock that another thread holds at that moment stays locked in the child,
and nobody is left there to release it. The programs make that moment certain with events, not likely with sleeps: the
thread that holds the lock says so, and goes on only when the fork is done. From Python 3.12 on, they are warned of it.

prefork_server.py and sqlalchemy_workers.py show more of what there is, and need a PostgreSQL.
"""
