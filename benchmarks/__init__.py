"""How fast forksafe is, next to threading and to other ways of surviving fork.

Run it from the repository's root, with forksafe importable:

    python -m benchmarks --help        the commands
    python -m benchmarks locks         what a lock costs: taking, waiting, contending, creating, keeping

measure.py says how to measure; report.py how to show it. Nothing here passes or fails: goals are printed beside the
measured values, which depend on the machine.
"""
