"""``mvc serve``: a repository for others to push to and fetch from."""
