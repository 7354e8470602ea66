"""Read and write files by path or URI: locations, output directories, locks, the cache, mirrored copies."""
