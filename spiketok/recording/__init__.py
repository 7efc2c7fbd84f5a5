"""What a recording is, and all that is computed of it in memory: the nouns (Session, UnitTable, Spikes, Intervals,
Signal), arithmetic of intervals, units, signals, splits and scores. No file is opened here and torch is never imported.
"""
