"""Settings and stages for training the CGN of small images."""
