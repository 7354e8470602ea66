"""Files that show a sweep or a data set: tables, figures, the page."""
