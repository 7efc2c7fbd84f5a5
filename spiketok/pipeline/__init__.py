"""The stages between sources and models, and what runs and checks them: ingest, tokenize, divide, verify, export; jobs;
the chain of digests and who is to be cited. Stages meet only on disk.
"""
