"""Schemas of the config groups and the checks between them; imports neither torch nor lightning."""
