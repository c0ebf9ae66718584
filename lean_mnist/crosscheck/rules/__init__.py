"""The rules of ``check_function``: each asks one question of a Function and answers with findings."""
