"""The steps from a folder of videos to a small classifier, one file each, in the order the data flows."""
