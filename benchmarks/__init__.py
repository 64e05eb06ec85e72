"""How fast forksafe is, next to threading and to other ways of surviving fork.

Run it from the repository's root, with forksafe importable:

    python -m benchmarks locks      what a lock costs: taking, waiting, contending, creating, keeping
    python -m benchmarks fork       what a fork costs when a million locks are alive, and what importing costs

measure.py says how; report.py how it is shown. Nothing here passes or fails: goals are printed beside what was
measured, and the machine at hand decides the numbers.
"""
