"""What happens around a fork.

hooks            register_at_fork() and its decorators
participants     the objects that a module acts on around each fork
gate             what forks and quiesce() go through one at a time, and the locks that are held across forks
quiesce          quiesce(): executors and background threads pause
foreign_forks    a child that C code forked
child_exit       a child ends as a program does, and leaves what its parent owns alone

What becomes of one type of object in a child is in the room of that type.
"""
