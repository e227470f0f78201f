"""Encryption at rest: which resources are sealed on disk, and by which keys."""
