"""Losses, and the task that turns a batch into named losses."""
