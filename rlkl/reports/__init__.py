"""Show runs to people: console, tables, figures, statistics over seeds, lists."""
