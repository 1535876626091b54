"""HTML pages to text, compiled: tokenizer and tree in one pass over the bytes, votes for the main content, layout as plain text."""
