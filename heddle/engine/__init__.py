"""Serves one model to many requests at once: token ids in, events out."""
