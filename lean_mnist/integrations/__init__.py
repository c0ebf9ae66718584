"""``GradientMonitor`` and ``check_function`` in other people's frameworks; each module is imported only when used.

``lightning.GradientMonitorCallback``, ``huggingface.GradientMonitorCallback``, and the pytest fixture
``gradient_check``, which the package registers with pytest by itself.
"""
