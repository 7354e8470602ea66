"""List the extensions of the files that may hold a clip, in lower case; the content of a file decides what it is."""

__all__ = ["ARRAY_SUFFIXES", "FILE_SUFFIXES", "NO_CLIPS", "PICTURE_SUFFIXES", "VIDEO_SUFFIXES"]


VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2t", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob",
    ".webm", ".wmv"
)  # fmt: skip
ARRAY_SUFFIXES = (".arrow", ".feather", ".npy", ".npz")
FILE_SUFFIXES = VIDEO_SUFFIXES + ARRAY_SUFFIXES
"""Of files that hold a whole clip."""
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of pictures: a folder of them is a clip."""
NO_CLIPS = (
    f"no videos ({', '.join(VIDEO_SUFFIXES)}), no arrays ({', '.join(ARRAY_SUFFIXES)}) and no pictures "
    f"({', '.join(PICTURE_SUFFIXES)})"
)
"""Text for messages about a folder without clips; it names the suffixes that are recognised."""
