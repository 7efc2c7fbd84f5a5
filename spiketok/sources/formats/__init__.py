"""Formats: files of others, each read as a Session."""
