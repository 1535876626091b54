"""Typed configuration: one tree, loaded from defaults, a YAML file and the command line."""
