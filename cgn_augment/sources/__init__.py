"""Where counterfactuals come from."""
