"""Write segments and scores for other tools, one file per kind of format."""
