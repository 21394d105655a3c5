"""Trains and measures Counterfactual Generative Networks, and trains classifiers with them."""
