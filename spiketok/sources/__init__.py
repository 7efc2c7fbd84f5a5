"""Where recordings come from: a catalogue of datasets with their rules, archives that are asked and downloaded from,
formats that are read, and a simulator.
"""
