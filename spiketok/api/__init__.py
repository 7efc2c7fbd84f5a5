"""Python's front door: what the commands do, as objects of a notebook and of a training loop.

    workspace   a workspace that is open: its sessions, tokens, windows, runs
    sessions    a stored session, read as far as it is asked
    tokens      a session's tokens by one scheme, cut in windows
    asking      what windows are asked, and how the time of sessions is divided for it
    dataset     windows as a torch IterableDataset, and their batches
    prepared    one of the package's own models with its batches and its score, for a loop of one's own
    runs        a training, what it predicts, its transfer to other sessions
    making      simulate, fetch, ingest, tokenize
    lightning   a LightningDataModule, where Lightning is installed
    tables      rows for people: pandas and HTML

A skin over the rooms above it: nothing is computed here that a command computes elsewhere. ``spiketok.open`` is where
it begins; docs/python.md shows all of it.
"""
