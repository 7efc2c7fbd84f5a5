"""Kinds of question that a model is trained and scored on, one file each."""
