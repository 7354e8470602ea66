"""Files that present a sweep or a data set: tables, figures, report.html."""
