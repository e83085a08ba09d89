"""Files that others made, read without trust: nothing in them is run, and their size is known before they are used."""
