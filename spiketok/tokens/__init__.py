"""Tokens: schemes that bake a session into columns, shards that keep the columns, live streams of the same tokens, and
the schemes measured against each other and drawn.
"""
