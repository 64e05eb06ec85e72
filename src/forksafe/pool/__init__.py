"""ConnectionPool: connections of any driver, which no child ever shares with its parent.

pool.py is the class: it lends and takes back. maintenance.py makes and closes connections, and acts around forks.
connect_workers.py has the threads for both, entry.py what is known of one connection, arguments.py the checks and
PoolStats. Which connections there are and which threads wait is the core's Slots (forksafe_core/pure/slots.py).
"""
