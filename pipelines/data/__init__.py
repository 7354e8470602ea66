"""Turn labelled videos into shards, and shards into batches."""
