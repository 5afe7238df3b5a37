"""What is wrong with a data set: the looks at its files and splits, and what they add up to."""
