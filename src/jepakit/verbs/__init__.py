"""The verbs that the command line and Python share: one file each, the same names and options in both."""
