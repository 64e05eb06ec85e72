"""BackgroundThread: a thread that forks find at a checkpoint, and that goes on in parent and child.

thread     BackgroundThread, background_thread()
run        one run of a target in one process
restart    the started threads: children restart them, and the interpreter's end stops them
"""
