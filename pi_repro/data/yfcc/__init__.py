"""YFCC15M as the lineage read it: parquet files of a hub, converted to shards."""
