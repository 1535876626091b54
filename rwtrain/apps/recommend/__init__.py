"""Recommendation: items are texts with entities, a history is a sequence of items that the trunk reads."""
