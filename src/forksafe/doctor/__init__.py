"""What `forksafe doctor` has in the program that it runs, and what it makes of the records.

agent.py runs inside the program, native_children.py watches from outside. report.py and html_report.py format what was
recorded, and know nothing of how it was found. The command itself is cli/doctor.py.
"""
