"""The dashboard: a page in the browser that shows what the cluster does while it does it, and lets operators act."""
