"""Evaluation: how a trained model does on sessions that it never saw, and the report on it."""
