"""Files from elsewhere: what they may be, how large, and how their text is printed. A file decides nothing."""
