"""Starting jobs: one description, run on this machine."""
