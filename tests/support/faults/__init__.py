"""What kills, tears, starves and watches a trainer; :mod:`docs/faults.md` says how to use it on another one."""
