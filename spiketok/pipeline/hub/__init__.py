"""Runs, shards and stored sessions to and from a folder, a bucket or Hugging Face: ``spiketok push`` and ``pull``.

What is unusual: nothing is sent that its own digests do not vouch for, and nothing that came is seen in the workspace
before the chain of digests was walked in the very bytes that came. The files of a place lie as in a workspace.
"""
