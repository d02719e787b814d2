"""The paper's three analyses on your own videos."""
