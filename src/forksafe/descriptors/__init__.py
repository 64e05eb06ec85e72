"""Descriptors that children must not have.

close_on_fork.py flags those that the user names. search.py finds those of any value: it is the only walk through
objects. type_plans.py says how objects of a type are looked at, known_types.py what is known of other libraries.
"""
