"""Labelled images of the user: folders, WebDataset shards, Hugging Face."""
