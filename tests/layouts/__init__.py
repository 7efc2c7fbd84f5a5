"""Files as the public archives have them: real layouts at a small scale, written with pynwb and not by our simulator.

One module a source. Values are deterministic: the same call gives the same spikes, trials and behaviour.
"""
