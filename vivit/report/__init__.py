"""HTML pages of runs, evaluations, training clips and studies."""
