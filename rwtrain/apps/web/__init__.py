"""The page and the JSON interface of the applications."""
