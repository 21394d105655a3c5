"""Runs `train-generator` as `python -m train_generator.cli`, for launchers of modules."""

from train_generator.cli.start import main

if __name__ == "__main__":
    main()
