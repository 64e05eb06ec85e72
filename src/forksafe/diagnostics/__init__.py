"""What a fork would break, and what a child hangs on.

hazards() scans, guard() acts on what it finds, track_locks() adds times and places. detectors/ finds hazards, hangs/
explains a child that does not move. What takes care of an object is registered in introspection/exemptions.py: nothing
here looks into the packages that do so.
"""
