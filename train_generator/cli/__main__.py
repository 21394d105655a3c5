"""Runs `train-generator` by `python -m train_generator.cli`, as launchers of several processes do."""

from train_generator.cli.program import main

if __name__ == "__main__":
    main()
