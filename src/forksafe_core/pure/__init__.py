"""The core where nothing is compiled, which is where there is no fork: threading's types, and one generation.

slots.py and checkout.py are one source for both: where there is fork, they are compiled.
"""
