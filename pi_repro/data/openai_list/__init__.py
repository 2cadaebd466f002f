"""YFCC15M by OpenAI's own list: its photographs from a bucket or a crawl, their captions from YFCC100M's metadata."""
