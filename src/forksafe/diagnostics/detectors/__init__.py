"""One file for each kind of thing that a fork breaks, named after what is looked at.

Each has FINDERS: functions that yield Hazard objects, with the kinds of hazard that each can find. A detector changes,
takes and imports nothing. scan.py calls them all.
"""
