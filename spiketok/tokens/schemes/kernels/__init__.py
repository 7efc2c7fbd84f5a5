"""The loops that numba compiles, and nothing else.

Rules that every kernel keeps: int64 times, int32 units, uint8 counts and flags, bool keep, float32 out; outputs are
given by the caller and never outgrown; the GIL is released; no fast math, so that a number is the same on every
machine. A kernel slices before it loops and looks up by ``np.uint64``: a signed index is checked for being negative
each time, which keeps a loop from vectorising and costs more than half of a look-up. An array of no rows stands for
"not given" where a numpy caller would pass None, so that each kernel compiles for one set of types. The readable twins
of these loops are in ``tests/reference/``.

One module a family; schemes import the module, never its functions one by one.
"""
