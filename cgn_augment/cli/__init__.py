"""The command `cgn-augment`."""
