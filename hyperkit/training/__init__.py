"""The one training loop, and what it stands on: optimizers, schedules, averaging, checkpoints, run directories.

The heavy parts (Lightning Fabric, TensorBoard) are imported inside functions.
"""
