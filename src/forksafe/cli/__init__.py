"""The command line: main.py parses, and each command is a module named after it.

launch.py and bootstrap/ have a program begin with forksafe. What a command finds out or changes is in other packages.
"""
