"""Archives: what is wanted, what that is in files and bytes, and its download. One contract (``plans``) for the DANDI
archive, for Zenodo and for plain addresses.
"""
