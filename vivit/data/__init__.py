"""Video files to clips: samples, decoding, clip arithmetic, transforms, loading."""
