"""The paper's three analyses on one's own videos: rows.py says what is compared, study.py runs it."""
