"""The parts of ``check_function``: oracles, contract rules, diagnosis, the report and its bundle.

An *oracle* says what the gradient should be and how well it knows: ``oracles`` (a reference in float64, forward-mode
derivatives), ``differences`` (directional differences with an error estimate), ``gradcheck``. A *contract rule* holds
for every right Function whatever it computes: ``contracts`` and ``usage``. ``context`` is what they share.
"""
