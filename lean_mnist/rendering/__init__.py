"""Images as text, in 24-bit colour, or as a PNG picture; nothing here knows more than NumPy, and Pillow for the PNG."""
