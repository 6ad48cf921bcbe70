"""The page of a study: its sentences, its tables, its figures."""
