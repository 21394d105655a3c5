"""Runs `cgn-augment` as `python -m cgn_augment.cli`, for launchers of modules."""

from cgn_augment.cli.start import main

if __name__ == "__main__":
    main()
