"""``check_function`` put to the hand-written gradients of published packages; the record is ``docs/wild.md``."""
