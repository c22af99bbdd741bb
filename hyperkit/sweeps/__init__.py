"""Grids of runs: cells, the folder that keeps their state, an engine on this machine, tables and named studies."""
