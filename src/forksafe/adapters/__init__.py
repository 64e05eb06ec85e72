"""What protect() does for objects that exist already: one file for each library, named after its package.

protect.py   protect(), unprotect()
registry.py  Adapter, register_adapter(), adapter_of(); it imports the file of a library when it meets a class of it
helpers.py   what several adapters need

To add the library X, write adapters/X.py with a dictionary ADAPTERS, and tests/adapters/test_X.py. An adapter uses
registry, helpers, executors, atfork, descriptors and locks, never another adapter.
"""
