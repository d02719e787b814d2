"""Files of weights, ours and other people's, to and from the model."""
