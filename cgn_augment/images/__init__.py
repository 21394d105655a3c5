"""Labelled images of the user: folders, tables, benchmarks' layouts, shards, Hugging Face."""
