"""Runs `cgn-augment` by `python -m cgn_augment.cli`, as launchers of several processes do."""

from cgn_augment.cli.program import main

if __name__ == "__main__":
    main()
