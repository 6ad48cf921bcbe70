"""Engines: who does the units of a run, one after the other or many at once.

An engine is called with a function and units, both of which can be pickled, and yields
each unit with what the function returned for it, as they end. The state of a unit is in
its files, so that an engine keeps nothing.
"""
