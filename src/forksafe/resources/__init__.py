"""@resource: values that belong to the process that made them.

resource.py is the decorator and the Resource that it returns. ownership.py says what becomes of an owned value at a
fork and at the end of its process; ConnectionPool uses it, too.
"""
