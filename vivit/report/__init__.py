"""HTML pages: a run, its clips, a study."""
