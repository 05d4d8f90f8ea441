"""What training is worth: cells of (recipe, data, seed), each measured once and kept, and the tables they fill.

To add to the bench: a `Data` in `bench/data.py` (which files, which metric) if there is none that fits, and a
`Table` in `bench/tables.py`. Its `rows` are names with overrides of the recipe, its `data` names of DATA; `goals`
is a function from the measured `Results` to targets with their values. A cell is measured again when its overrides
change, so settings can be improved row by row. `multigraft train bench --table NAME` runs one table.
"""
