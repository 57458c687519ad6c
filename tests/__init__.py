"""Tests, by package. What starts real etcd or kernel server processes is marked ``real``."""
