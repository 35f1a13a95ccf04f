"""Passes over the graph, one a file: they make graphs smaller and give exporters' spellings one canonical form."""
