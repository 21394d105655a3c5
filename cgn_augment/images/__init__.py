"""The user's labelled images: folders, tables, benchmarks' layouts, shards, Hugging Face."""
