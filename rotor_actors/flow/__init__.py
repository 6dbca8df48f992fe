"""Flow control: how many runs of a key run at once, how many begin in a period, and which starts become one run.

`options` and `rules` say what a workflow asks for, `window`, `queue` and `line` decide (pure), `gate` lets runs begin,
`arriving` and `merging` make runs of starts, `face` is what callers see.
"""
