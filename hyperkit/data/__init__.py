"""Data sets by their layout on disk, procedural generators, mesh rendering and frozen evaluation pairs."""
