"""Files and directories by path or URI: locations, the OUT directory, locks, a cache, copies of a bucket."""
