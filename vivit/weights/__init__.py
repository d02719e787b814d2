"""Read and write files of weights in our format and in those of other libraries."""
