"""The verbs of the command line as typed Python functions."""
