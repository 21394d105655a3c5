"""Train a Counterfactual Generative Network, measure it, and train classifiers with it."""
