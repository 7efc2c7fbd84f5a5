"""How things are kept on disk and behind URLs: files that are whole or not there, the workspace, one zarr group a
session, and windows read out of it.
"""
