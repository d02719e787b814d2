"""The paper's three analyses on your own videos: what they compare, running them, what follows."""
