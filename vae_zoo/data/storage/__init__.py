"""Files: the cache, downloads, pictures, arrays and tables."""
