"""One self-contained page from finished artifacts; reads, never computes."""
