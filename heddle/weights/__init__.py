"""Checkpoints: found or fetched (`hub`), read (`checkpoint`), written back (`export`)."""
