"""Traces, metrics and logs: what the system shows of itself.

Owns every use of OpenTelemetry and every span, metric and log name (``names``). Leaves what is worth showing
to callers.
Invariant: with telemetry off nothing of OpenTelemetry is imported and a hot path pays one attribute read.
Failure behaviour: telemetry never fails a call; what cannot be exported is dropped, and the exporter logs that.
"""
