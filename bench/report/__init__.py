"""The numbers and words of the report page, computed in one place from rows."""
