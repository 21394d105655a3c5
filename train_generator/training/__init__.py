"""The training loop: stages, checkpoints, resume, processes, precision, Ctrl-C."""
