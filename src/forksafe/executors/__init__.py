"""concurrent.futures' names: Future, ThreadPoolExecutor and ProcessPoolExecutor for programs that fork.

Also what becomes, in a child, of the work that its parent had submitted (inherited.py); the adapters for the standard
executors use the same.
"""
