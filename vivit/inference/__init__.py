"""From video files to answers."""
