"""The group level: what the scans of a data set say together."""
