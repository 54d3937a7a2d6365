"""Figures of a study: each module has `tidy(df, study) -> table` and `draw(table, ax=None) -> Figure`.

A plot reads no file and trains nothing; `plots.figures.all_figures` draws everything a study has rows for, and
`plots.style.save` is the only function that writes.
"""
