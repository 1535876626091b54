"""Heuristic filters: each removes documents for a countable reason."""
