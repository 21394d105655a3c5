"""The command `train-generator`."""
