"""Preparation of web corpora: sources, extraction, filters, deduplication, entity linking, tokenisation, shards, report."""
