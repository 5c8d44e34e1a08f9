"""What is wrong with a set of rules: they repeat, disagree, can't be found, or are about no file."""
