"""Looks at a program without running its code: threads, stacks, locks' owners, attributes.

It is at the bottom: nothing here imports another package of forksafe. exemptions.py is the list that packages above
write and diagnostics read.
"""
