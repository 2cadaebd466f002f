"""NIGHTS: human judgements of image triplets, from the published archives to shards."""
