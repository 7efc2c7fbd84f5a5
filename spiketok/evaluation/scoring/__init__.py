"""Scorers of prediction files: what a benchmark's server takes, checked rule by rule, and its official table."""
