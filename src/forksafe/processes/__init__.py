"""multiprocessing's names: get_context() and what it consists of.

context         get_context(), Context
process         Process
start_method    get_start_method(): how a process can be started safely at this moment
parent_death    a child dies with its parent
"""
