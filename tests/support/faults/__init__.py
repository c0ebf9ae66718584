"""Tools that kill, tear, starve and watch a trainer; :mod:`docs/faults.md` says how to use it on another one."""
