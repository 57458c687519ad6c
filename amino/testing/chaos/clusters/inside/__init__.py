"""What is put into servers' processes by way of ``PYTHONPATH``. Not a package for them: they find its modules by themselves."""
