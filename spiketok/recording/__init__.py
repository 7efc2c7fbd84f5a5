"""What a recording is, and all that can be computed of it in memory: the nouns (Session, UnitTable, Spikes, Intervals,
Signal), arithmetic of intervals, units, signals, splits and scores. numpy only: no file is opened here and torch is
never imported.
"""
