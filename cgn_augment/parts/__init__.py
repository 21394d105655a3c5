"""Real images taken apart: masks, foregrounds and backgrounds to draw from."""
