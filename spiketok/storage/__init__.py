"""How things are kept on disk and behind URLs: files that are whole or not there, the workspace, two files a
session, and windows read out of them.
"""
