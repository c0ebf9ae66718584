"""Reference outputs, directional differences, and how far rounding explains what is found."""
