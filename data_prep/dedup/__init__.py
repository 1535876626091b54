"""Deduplication: signatures per document, then groups of equal signatures, then clusters."""
